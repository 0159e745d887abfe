"""Thin adapters to the places where volumes and nodes live, loaded by name."""
