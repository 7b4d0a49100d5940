"""How much prefill a stage runs at a time while others of its sessions decode.

A decode step that finds a chunk running waits for its end, on every stage of its pipeline. So
beside decoding a chunk is to take no longer than a decode step does: then the time between tokens
at most doubles on a stage, whatever the device (chunked prefill as in Sarathi-Serve, OSDI 2024, the
budget in measured time instead of tokens). Without decoding, chunks are as large as they come.

Always: between `LEAST` positions and the limit given; what is learnt comes from steps that ran.
"""

from helix_p2p.session.messages import Phase

LEAST = 16
"""A product of fewer rows costs a CPU about as much."""
WEIGHT = 0.3
"""Of the latest step in what is learnt; one step in a loaded machine says little."""


class PrefillPace:
    """What one stage learnt of its own speed.

    Args:
        most: Positions at a time when nothing decodes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._decode_s: float | None = None
        self._position_s: float | None = None

    def ran(self, phase: Phase, positions: int, took_s: float) -> None:
        """A step of so many positions took so long."""
        if phase is Phase.DECODE:
            self._decode_s = _nearer(self._decode_s, took_s)
        else:
            self._position_s = _nearer(self._position_s, took_s / positions)

    def positions(self, *, decoding: bool) -> int:
        """How many to run at once now."""
        if not decoding or self._decode_s is None:
            return self._most
        if not self._position_s:
            return min(LEAST, self._most)
        return min(self._most, max(LEAST, int(self._decode_s / self._position_s)))


def _nearer(known: float | None, seen: float) -> float:
    return seen if known is None else known + WEIGHT * (seen - known)
