"""Benchmarks: what the project promises, measured. Run them with ./scripts/bench."""
