"""The KV ledger: who may keep how much of this stage's KV cache, and until when.

Only this local admission protects a stage's memory, so two planners at once, stale plans and greedy
entry peers are harmless (docs/adr/0008).

Always: the sum of reservations never exceeds the capacity, never goes negative, and what is
released twice counts once. The unit is tokens × layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from helix_p2p.errors import Busy
from helix_p2p.types import SessionId


@dataclass(frozen=True, slots=True)
class Reservation:
    """One session's room."""

    token_layers: int
    expires_s: float


class KvLedger:
    """Reservations of one stage."""

    def __init__(self, capacity_token_layers: int) -> None:
        self._capacity = capacity_token_layers
        self._used = 0
        self._held: dict[SessionId, Reservation] = {}

    @property
    def capacity_token_layers(self) -> int:
        """All the room there is."""
        return self._capacity

    @property
    def used_token_layers(self) -> int:
        """Room that is reserved."""
        return self._used

    @property
    def reservations(self) -> Mapping[SessionId, Reservation]:
        """Who holds what."""
        return self._held

    def resize(self, capacity_token_layers: int) -> None:
        """The engine has more or less room now; reservations stay, new ones may have to wait."""
        self._capacity = capacity_token_layers

    def reserve(self, session: SessionId, token_layers: int, expires_s: float) -> None:
        """Reserve room, replacing what the session held before.

        Raises:
            Busy: There is not enough; what was held before stays held.
        """
        before = self._held.get(session)
        already = before.token_layers if before else 0
        if token_layers > already and self._used - already + token_layers > self._capacity:
            raise Busy(
                f"{token_layers} token-layers of KV cache are needed, "
                f"{max(0, self._capacity - self._used)} are free",
                retry_after_s=1.0,
            )
        self._used += token_layers - already
        self._held[session] = Reservation(token_layers, expires_s)

    def touch(self, session: SessionId, expires_s: float) -> None:
        """Keep a reservation for longer."""
        held = self._held.get(session)
        if held is not None:
            self._held[session] = Reservation(held.token_layers, expires_s)

    def release(self, session: SessionId) -> None:
        """Give the room back; unknown sessions are ignored."""
        held = self._held.pop(session, None)
        if held is not None:
            self._used -= held.token_layers

    def expired(self, now_s: float) -> tuple[SessionId, ...]:
        """Sessions whose reservation has run out."""
        return tuple(s for s, held in self._held.items() if held.expires_s <= now_s)
