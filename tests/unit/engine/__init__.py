"""The engine, against the fake cloud."""
