"""Helix mode: the semantics of the paper's own simulator."""
