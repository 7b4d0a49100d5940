"""Drives the pure machines with IO: one peer's process."""
