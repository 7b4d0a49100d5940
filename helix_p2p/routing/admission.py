"""The KV ledger: who may keep how much of this stage's KV cache, and until when.

Only this local admission protects a stage's memory, so two planners at once, stale plans and greedy
entry peers are harmless (docs/adr/0008).

Always: the sum of reservations never exceeds the capacity, never goes negative, and what is
released twice counts once. The unit is tokens × layers, in whole blocks, as the engine allocates.
"""

from collections.abc import Mapping
from heapq import heappop, heappush

from msgspec import Struct
from msgspec.structs import replace

from helix_p2p.errors import Busy
from helix_p2p.types import LayerRange, PeerId, SessionId

BLOCK_TOKENS = 16
"""Reservations are whole blocks, so that equal sessions reuse the allocator's freed memory, and
many short sessions cost what they are counted for."""


def token_layers_of(kv_tokens: int, layers: LayerRange) -> int:
    """What a session of `kv_tokens` positions takes over `layers`."""
    return -(-max(1, kv_tokens) // BLOCK_TOKENS) * BLOCK_TOKENS * len(layers)


class Reservation(Struct, frozen=True, gc=False):
    """One session's room.

    Attributes:
        owner: The entry peer that asked for it.
    """

    owner: PeerId
    token_layers: int
    expires_s: float


class KvLedger:
    """Reservations of one stage."""

    def __init__(self, capacity_token_layers: int) -> None:
        self._capacity = capacity_token_layers
        self._used = 0
        self._held: dict[SessionId, Reservation] = {}
        self._used_by: dict[PeerId, int] = {}
        self._ends: list[tuple[float, SessionId]] = []  # a heap; some are not true any more

    @property
    def capacity_token_layers(self) -> int:
        """All the room there is."""
        return self._capacity

    @property
    def used_token_layers(self) -> int:
        """Room that is reserved."""
        return self._used

    @property
    def free_token_layers(self) -> int:
        """Room that is not."""
        return max(0, self._capacity - self._used)

    @property
    def reservations(self) -> Mapping[SessionId, Reservation]:
        """Who holds what, in the order of reserving."""
        return self._held

    @property
    def used_by(self) -> Mapping[PeerId, int]:
        """What each entry peer holds; only those that hold something."""
        return self._used_by

    def resize(self, capacity_token_layers: int) -> None:
        """The engine has more or less room now; reservations stay, new ones may have to wait."""
        self._capacity = capacity_token_layers

    def reserve(
        self, session: SessionId, owner: PeerId, token_layers: int, expires_s: float
    ) -> None:
        """Reserve room, replacing what the session held before.

        Raises:
            Busy: There is not enough; what was held before stays held.
        """
        before = self._held.get(session)
        already = before.token_layers if before else 0
        if token_layers > already and self._used - already + token_layers > self._capacity:
            raise Busy(
                f"{token_layers} token-layers of KV cache are needed, "
                f"{self.free_token_layers} are free",
                retry_after_s=1.0,
            )
        self.release(session)
        self._used += token_layers
        self._used_by[owner] = self._used_by.get(owner, 0) + token_layers
        self._held[session] = Reservation(owner, token_layers, expires_s)
        heappush(self._ends, (expires_s, session))

    def touch(self, session: SessionId, expires_s: float) -> None:
        """Keep a reservation for longer."""
        held = self._held.get(session)
        if held is not None:
            self._held[session] = replace(held, expires_s=expires_s)
            heappush(self._ends, (expires_s, session))

    def release(self, session: SessionId) -> None:
        """Give the room back; unknown sessions are ignored."""
        held = self._held.pop(session, None)
        if held is not None:
            self._used -= held.token_layers
            left = self._used_by.pop(held.owner, 0) - held.token_layers
            if left:
                self._used_by[held.owner] = left

    def expired(self, now_s: float) -> tuple[SessionId, ...]:
        """Sessions whose reservation has run out."""
        if not self._ends or self._ends[0][0] > now_s:
            return ()
        due: dict[SessionId, float] = {}
        while self._ends and self._ends[0][0] <= now_s:
            expires_s, session = heappop(self._ends)
            held = self._held.get(session)
            if held is not None and held.expires_s == expires_s:
                due[session] = expires_s
        for session, expires_s in due.items():  # they stay due until somebody acts
            heappush(self._ends, (expires_s, session))
        return tuple(due)
