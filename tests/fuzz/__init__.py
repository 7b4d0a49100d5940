"""Fuzzing of everything that reads bytes of another machine or of a file; see docs/fuzzing.md."""
