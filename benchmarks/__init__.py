"""Benchmarks: figures to look at, no tests."""
