"""The `helix-bootstrap` application: the way into a swarm, and its monitor."""
