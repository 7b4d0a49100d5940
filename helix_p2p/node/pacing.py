"""Times what a few other peers do with some layers, so that plans need not rest on their word.

A witness (`cluster.belief`) has rows run through layers that the other holds, as its checks do
(`rechecking`), and takes off what the same bytes need there and back. A peer cannot be faster than
its device, so who claims ten times its speed is found; one that dawdles for a witness harms itself.

Newcomers, and whoever says something else of its speed, are timed within seconds: a lie that had
minutes would have had its traffic. Who refuses is asked again after ever longer pauses.

Always: bounded in peers, rows and time; what could not be measured is left out; a difference that
the way or a busy moment explains is none; the better of the last two measurements counts.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from helix_p2p.cluster.announcement import Announcement, PaceMeasurement, PeerState
from helix_p2p.cluster.belief import DOUBT, subjects_of
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.engine import wireformat
from helix_p2p.errors import HelixError, ProtocolError
from helix_p2p.membership.messages import Probe, ProbeReply
from helix_p2p.node.rechecking import Asking
from helix_p2p.session.recheck_messages import Rerun, RerunReply
from helix_p2p.types import LayerRange, PeerId

PROMPT_ROWS, STEPS = 16, 8
"""A short chunk and then single steps, which are what plans count on most; not so many that the
other's sessions would wait for long."""
FIRST_S, AGAIN_S, USUAL_S = 10.0, 20.0, 300.0
PEERS_PER_ROUND = 8
WAY_NOISE = 0.5
"""Share of the time of the way that may be noise."""
LEAST_S = 0.02
ANSWER_S = 15.0


@dataclass(slots=True)
class _Timed:
    """What was found of one peer while it said this of its speed."""

    claim: SpeedProfile | None
    found: deque[float] = field(default_factory=lambda: deque(maxlen=2))
    pause_s: float = AGAIN_S
    again_s: float = 0.0

    @property
    def sure(self) -> bool:
        return len(self.found) == 2 and max(self.found) == 1.0


class PaceMeter:
    """See the module's description.

    Args:
        me: This peer.
        asking: Puts questions to others.
        said: Everyone's announcements.
        layers: Of the model.
        d_model: Width of its hidden states.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        me: PeerId,
        asking: Asking,
        said: Callable[[], Mapping[PeerId, Announcement]],
        layers: int,
        d_model: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._me = me
        self._asking = asking
        self._said = said
        self._layers = layers
        self._clock = clock
        rows = torch.randn(PROMPT_ROWS + STEPS, d_model, generator=torch.Generator().manual_seed(1))
        self._rows = rows.to(torch.bfloat16)
        self._payload = wireformat.to_bytes(self._rows)
        self._timed: dict[PeerId, _Timed] = {}
        self._usual_s = 0.0

    async def run(self, tell: Callable[[tuple[PaceMeasurement, ...]], None]) -> None:
        """Until cancelled; `tell` hears what is known after each round."""
        pause_s = FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            if self.due():
                tell(await self.round())
            pause_s = AGAIN_S

    def due(self) -> bool:
        """Whether anybody is to be timed now."""
        return self._clock() >= self._usual_s or bool(self._unsure(self._subjects()))

    async def round(self) -> tuple[PaceMeasurement, ...]:
        """Time the next few; what is known of all of them."""
        subjects = self._subjects()
        self._usual_s = self._clock() + USUAL_S
        order = list(self._timed)
        # Whoever was not timed for longest goes first; where some are unsure, they alone.
        waiting = sorted(self._unsure(subjects) or subjects, key=order.index)
        for peer in waiting[:PEERS_PER_ROUND]:
            timed = self._timed.pop(peer)
            self._timed[peer] = timed
            try:
                slower = await self._slower(peer, subjects[peer])
            except HelixError:
                timed.again_s = self._clock() + timed.pause_s
                timed.pause_s = min(USUAL_S, 2 * timed.pause_s)
            else:
                timed.pause_s = AGAIN_S
                timed.found.append(slower)
        return tuple(
            PaceMeasurement(peer, min(timed.found))
            for peer, timed in sorted(self._timed.items())
            if timed.found
        )

    def _subjects(self) -> dict[PeerId, Announcement]:
        """Whom to time, by what they say now; what is known holds for what they said then."""
        said = self._said()
        lending = [peer for peer, word in said.items() if word.speed is not None]
        subjects = {peer: said[peer] for peer in subjects_of(self._me, lending)}
        for peer in [p for p in self._timed if p not in subjects]:
            del self._timed[peer]
        for peer, word in subjects.items():
            known = self._timed.get(peer)
            if known is None or known.claim != word.speed:
                self._timed.pop(peer, None)
                self._timed = {peer: _Timed(word.speed), **self._timed}
        return {peer: word for peer, word in subjects.items() if self._layers_of(word) is not None}

    def _unsure(self, subjects: Mapping[PeerId, Announcement]) -> list[PeerId]:
        """Those who were not found as fast as they say twice in a row."""
        now_s = self._clock()
        timed = self._timed
        return [p for p in subjects if not timed[p].sure and timed[p].again_s <= now_s]

    def _layers_of(self, word: Announcement) -> LayerRange | None:
        """What can be timed: rows go in and come out in the middle of the model."""
        if word.state is not PeerState.SERVING or word.serving is None or word.speed is None:
            return None
        start, end = max(word.serving.start, 1), min(word.serving.end, self._layers - 1)
        return LayerRange(start, end) if start < end else None

    async def _slower(self, peer: PeerId, word: Announcement) -> float:
        """How many times longer than it says; 1 where it may be as it says."""
        layers, speed = self._layers_of(word), word.speed
        assert layers is not None
        assert speed is not None
        said_s = len(layers) * (speed.prefill_s(PROMPT_ROWS) + STEPS * speed.decode_s(1))
        way_s = await self._way(peer)
        computed_s = await self._run(peer, layers) - way_s
        if computed_s > DOUBT * said_s + WAY_NOISE * way_s + LEAST_S:
            computed_s = min(computed_s, await self._run(peer, layers) - await self._way(peer))
        if computed_s <= DOUBT * said_s + WAY_NOISE * way_s + LEAST_S:
            return 1.0
        return float(f"{computed_s / said_s:.1g}")  # so that noise is no news

    async def _way(self, peer: PeerId) -> float:
        size = len(self._payload)
        began_s = self._clock()
        reply, data = await self._asking.ask(peer, Probe(size), self._payload, timeout_s=ANSWER_S)
        if reply != ProbeReply(size) or len(data) != size:
            raise ProtocolError(f"{peer} does not answer probes as it should")
        return self._clock() - began_s

    async def _run(self, peer: PeerId, layers: LayerRange) -> float:
        counts = (PROMPT_ROWS, *[1] * STEPS)
        asked = Rerun(
            layers, counts, (False,) * len(counts), wireformat.dtype_name(self._rows.dtype)
        )
        began_s = self._clock()
        reply, _ = await self._asking.ask(peer, asked, self._payload, timeout_s=ANSWER_S)
        if not isinstance(reply, RerunReply):
            raise ProtocolError(f"{peer} does not run rows as it should")
        return self._clock() - began_s
