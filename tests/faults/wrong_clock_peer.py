"""`helix-peer` on a machine whose wall clock is off by FAULTS_CLOCK_OFFSET_S seconds."""

import os
import time

from helix_peer.cli import main

OFFSET_S = float(os.environ["FAULTS_CLOCK_OFFSET_S"])
_true = time.time


def _wrong() -> float:
    return _true() + OFFSET_S


if __name__ == "__main__":
    time.time = _wrong
    main()
