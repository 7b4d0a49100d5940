"""helix-p2p: a peer-to-peer volunteer compute network for large language models."""
