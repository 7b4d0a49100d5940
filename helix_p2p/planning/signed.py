"""Plans under their planner's signature.

Always: what is opened here was signed by whoever `record.signer` names, for this swarm, as a plan.
"""

from helix_p2p import codec
from helix_p2p.errors import DecodeError
from helix_p2p.identity import Identity, Signed
from helix_p2p.planning.packing import decode_plan, encode_plan
from helix_p2p.planning.plan import PLAN_KIND, PLAN_LIMIT_BYTES, Plan, SignedPlan
from helix_p2p.remembered import remembered
from helix_p2p.types import PeerId

OPENED_KEPT = 4
"""The latest plans come from several neighbours at once, and are read once."""


def sign_plan(plan: Plan, planner: Identity, swarm: str) -> Signed:
    """Make a plan an epoch of the swarm.

    Raises:
        ValueError: A number in it is larger than any plan may say.
    """
    return planner.sign(PLAN_KIND, swarm, encode_plan(plan))


@remembered(OPENED_KEPT)
def hash_of_plan(body: bytes) -> bytes:
    """The hash by which a plan is asked for; a mebibyte takes a millisecond, so some are kept."""
    return codec.sha256(body)


@remembered(OPENED_KEPT)
def named_in(record: Signed) -> frozenset[PeerId]:
    """Everyone whose word a plan rests on.

    Raises:
        SignatureError, DecodeError: As `open_plan`.
    """
    return frozenset(open_plan(record, record.swarm).plan.announced)


@remembered(OPENED_KEPT)
def open_plan(record: Signed, swarm: str) -> SignedPlan:
    """Verify the signature over a plan and read it; whether it is a good plan is `validate`'s.

    Raises:
        SignatureError: Wrong swarm, kind or signature, or the signer is not the planner.
        DecodeError: The body is not a plan, or too long for one.
    """
    if len(record.body) > PLAN_LIMIT_BYTES:  # the signature's check would copy it
        raise DecodeError(f"a plan of {len(record.body)} bytes, at most {PLAN_LIMIT_BYTES} fit")
    record.verify(kind=PLAN_KIND, swarm=swarm)
    return SignedPlan(decode_plan(record.body), record, hash_of_plan(record.body))
