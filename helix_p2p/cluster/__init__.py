"""What exists: the model, the peers with their measured speed, the links, and a snapshot of all."""
