"""The swarm in a box: virtual time, the paper's simulator reproduced, our machines simulated."""
