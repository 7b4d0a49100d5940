"""What should be: placement, flow, their proof, and how to get there from where the swarm is."""
