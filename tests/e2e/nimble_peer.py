"""`helix-peer`, but it hears of a new number of cells within seconds and moves at once."""

import helix_p2p.node.peer as peer
import helix_p2p.node.root_words as root_words
from helix_peer.cli import main

if __name__ == "__main__":
    root_words.ASK_EVERY_S = 1.0
    peer.random = lambda: 0.0
    main()
