"""What exists: the model, the peers with their measured speed, the links, a snapshot of them all."""
