"""Tests of pure code and of the engine on the fake cloud; no network, no sleeping."""
