"""Runs slices of a model: loading, KV pool, batches, sampling. Needs torch."""
