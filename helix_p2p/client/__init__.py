"""The library people import: generate, chat, stream."""
