"""How much prefill a stage runs at a time while others of its sessions decode.

A decode step that finds a chunk running waits for its end, on every stage of its pipeline. So
beside decoding a chunk is to take no longer than a decode step does: then the time between tokens
at most doubles on a stage, whatever the device (chunked prefill as in Sarathi-Serve, OSDI 2024, the
budget in measured time instead of tokens). Where more sessions wait for their first token than
decode, chunks may take as many times longer: time goes to both by their number, and the weights,
which each chunk reads from memory once, are read for more positions. With chunks as short as the
one step of the first session that decoded, a burst of 32 prompts cost three times the CPU time.
Without decoding, chunks are as large as they come.

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
        self.most = most
        self._decode_s: float | None = None
        self._position_s: float | None = None

    def ran(self, phase: Phase, positions: int, took_s: float) -> None:
        """A step of so many positions took so long."""
        if phase is Phase.DECODE:
            self._decode_s = _nearer(self._decode_s, took_s)
        else:
            self._position_s = _nearer(self._position_s, took_s / positions)

    def positions(self, *, decoding: int, waiting: int) -> int:
        """How many to run at once now.

        Args:
            decoding: Sessions that decode.
            waiting: Sessions whose first token is yet to come.
        """
        if not decoding or self._decode_s is None:
            return self.most
        if not self._position_s:
            return min(LEAST, self.most)
        budget_s = self._decode_s * max(1.0, waiting / decoding)
        return min(self.most, max(LEAST, int(budget_s / self._position_s)))


def _nearer(known: float | None, seen: float) -> float:
    return seen if known is None else known + WEIGHT * (seen - known)
