"""`helix-peer`, but it hears of a new number of cells within seconds and moves at once."""

import helix_p2p.node.cells as cells
import helix_p2p.node.peer as peer
from helix_peer.cli import main

if __name__ == "__main__":
    cells.READ_EVERY_S = 1.0
    peer.random = lambda: 0.0
    main()
