"""Dataclasses to frames and back."""
