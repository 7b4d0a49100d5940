"""The `helix-peer` application: lend this machine to a swarm."""
