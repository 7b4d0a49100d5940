"""The decoders, by what they read."""
