"""Whom this peer believes: certificates, what the root revoked, keys that convicted themselves.

Always: nobody is banned without a proof that convinces anyone, and no proof convicts this peer in
its own eyes (its own plans are fenced by the high-water mark); proofs are bounded, and of made-up
keys, which cost nothing, the first to be forgotten.
"""

from collections.abc import Callable

from helix_p2p.cluster.announcement import open_announcement
from helix_p2p.errors import HandshakeRefused, PlanRejected
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import equivocation
from helix_p2p.membership.credentials import Role, verify_credentials
from helix_p2p.membership.messages import PushProof
from helix_p2p.membership.revocations import RevocationsOrder, open_revocations, order_of
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.types import PeerId

PROOFS_KEPT = 1024
PROOFS_LIMIT_BYTES = 32 * 1024 * 1024
"""Two plans of a thousand peers are 170 kB; what those make us keep who convict themselves with a
new key each time ends here."""


class Trust:
    """See the module's description.

    Args:
        me: This peer.
        swarm: Swarm id.
        root_public_key: The swarm's root; None in an open swarm.
    """

    def __init__(self, me: PeerId, swarm: str, root_public_key: bytes | None) -> None:
        self._me = me
        self._swarm = swarm
        self._root_public_key = root_public_key
        self._order: RevocationsOrder = (-1, b"")
        self.revoked: frozenset[str] = frozenset()
        self.revocations: Signed | None = None
        self.proofs: dict[PeerId, PushProof] = {}
        self._strangers: dict[PeerId, None] = {}
        self._proofs_bytes = 0

    @property
    def serial(self) -> int:
        """Of the list of revocations that holds here; -1 without one."""
        return self._order[0]

    def banned(self, peer: PeerId) -> bool:
        """Whether a key is out for good: it convicted itself, or the root put it out."""
        return peer in self.proofs or peer in self.revoked

    def admit(self, credentials: bytes, peer: PeerId, now_unix_s: float) -> frozenset[Role]:
        """What a peer may do.

        Raises:
            HandshakeRefused: Nothing.
        """
        if peer in self.proofs:
            raise HandshakeRefused("its key is banned: it signed two plans of one epoch")
        return verify_credentials(
            credentials,
            peer=peer,
            swarm=self._swarm,
            root_public_key=self._root_public_key,
            now_unix_s=now_unix_s,
            revoked=self.revoked,
        )

    def check_planner(self, signed: SignedPlan, now_unix_s: float) -> None:
        """Whether a plan's planner may plan.

        That is read from the announcement in the plan and the root's list. The list is not the same
        everywhere at once, but it soon is; so honest peers disagree on a revoked planner's plan for
        seconds, never for ever.

        Raises:
            PlanRejected: It may not, or does not show that it may.
            SignatureError, DecodeError: Its announcement in the plan does not hold.
        """
        plan = signed.plan
        word = next((r for r in plan.announcements if r.signer == plan.planner), None)
        if word is None:
            raise PlanRejected("planner", "its planner's announcement is missing")
        said = open_announcement(word, self._swarm)
        try:
            roles = self.admit(said.credentials, plan.planner, now_unix_s)
        except HandshakeRefused as error:
            raise PlanRejected("planner", str(error)) from error
        if Role.PLANNER not in roles:
            raise PlanRejected("planner", f"{plan.planner} may not plan")

    def convict(self, proof: PushProof, known: Callable[[PeerId], bool]) -> PeerId | None:
        """Take a proof of equivocation.

        Args:
            proof: From anyone.
            known: Whether a key is, or was, a member's; others' proofs are forgotten first.

        Returns:
            Who is banned by it; None when that is known already, or is this peer.

        Raises:
            PlanRejected: It proves nothing.
            SignatureError, DecodeError: Its plans are none.
        """
        convicted = equivocation(proof.first, proof.second, self._swarm)
        if convicted is None:
            raise PlanRejected("proof", "these two plans prove nothing")
        if convicted == self._me or convicted in self.proofs:
            return None
        self.proofs[convicted] = proof
        if not known(convicted):
            self._strangers[convicted] = None
        self._proofs_bytes += _size_bytes(proof)
        while len(self.proofs) > PROOFS_KEPT or self._proofs_bytes > PROOFS_LIMIT_BYTES:
            oldest = next(iter(self._strangers or self.proofs))
            self._strangers.pop(oldest, None)
            self._proofs_bytes -= _size_bytes(self.proofs.pop(oldest))
        return convicted

    def revoke(self, record: Signed) -> bool:
        """Take the root's list of revocations.

        Returns:
            Whether it is newer than ours, and holds from now on.

        Raises:
            HandshakeRefused, SignatureError, DecodeError: It is not the root's.
        """
        if self._root_public_key is None:
            raise HandshakeRefused("an open swarm has no revocations")
        said = open_revocations(record, self._swarm, self._root_public_key)
        order = order_of(said, record)
        if order <= self._order:
            return False
        self._order, self.revocations, self.revoked = order, record, said.names
        return True


def _size_bytes(proof: PushProof) -> int:
    return len(proof.first.body) + len(proof.second.body)
