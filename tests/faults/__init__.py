"""The fault table: every fault that helix-p2p promises to survive, caused and measured.

Like `bench`, a tool of the repository and no part of the distribution; `./scripts/faults` runs it.
"""
