"""The `helix-p2p` command."""
