"""Plan adoption against a max() model; what strangers hand us; credentials bent anyhow."""

import contextlib
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from helix_p2p import codec
from helix_p2p.errors import (
    HandshakeRefused,
    InviteError,
    PlanRejected,
    ProtocolError,
    RecordRejected,
)
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.adoption import (
    Adoption,
    Equivocation,
    HighWater,
    Offer,
    PlanOrder,
    highest_epoch_at,
    next_epoch,
)
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    certify,
    grant,
    open_swarm_id_of,
    swarm_id_of,
    verify_credentials,
)
from helix_p2p.membership.invite import Invite, create_invite, read_invite
from helix_p2p.membership.records import RecordRules, check_record, member_key
from helix_p2p.membership.timing import MembershipTiming, Now
from helix_p2p.planning.plan import MinCut, Placement, Plan, SignedPlan
from helix_p2p.planning.signed import open_plan, sign_plan
from helix_p2p.types import Epoch

SWARM = open_swarm_id_of("property")
UNIX_S = 1_800_000_000.0
BASE_EPOCH = 64 * int(UNIX_S // 30)
KEYS = [Identity(codec.sha256(bytes([n]))) for n in range(3)]
TIMING = MembershipTiming()


def make_plan(signer: int, epoch: int, salt: int, *, valid: bool) -> SignedPlan:
    placement = Placement((), (), 0, 0, MinCut(), "good" if valid else "evil", float(salt))
    body = Plan(Epoch(epoch), KEYS[signer].peer_id, b"", "", UNIX_S, (), placement)
    return open_plan(sign_plan(body, KEYS[signer], SWARM), SWARM)


PLANS = [
    make_plan(signer, BASE_EPOCH + step, salt, valid=valid)
    for signer in range(3)
    for step in (-70, -1, 0, 1, 2, 191, 192, 500)
    for salt in (0, 1)
    for valid in (True, False)
]


def validate(signed: SignedPlan, _now_unix_s: float) -> None:
    if signed.plan.placement.solver == "evil":
        raise PlanRejected("model", "evil")


class AdoptionAgainstMax(RuleBasedStateMachine):
    """What is adopted is the highest of all valid plans offered, whatever happens in between."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Now(0.0, UNIX_S)
        self.disk: bytes | None = None
        self.adoption = Adoption(SWARM, validate, TIMING, met=lambda _: True)
        self.adopted: PlanOrder | None = None
        self.pending: list[bytes] = []

    @rule(plan=st.sampled_from(PLANS), disk_is_full=st.booleans(), at_once=st.booleans())
    def offer(self, plan: SignedPlan, disk_is_full: bool, at_once: bool) -> None:
        taken = False
        with contextlib.suppress(ProtocolError):
            outcome, _ = self.adoption.offer(plan.record, self.now)
            taken = outcome is Offer.PERSIST
        if not taken:
            return
        assert plan.plan.placement.solver == "good"
        assert plan.plan.epoch <= highest_epoch_at(self.now.unix_s)
        if disk_is_full:
            self.adoption.persist_failed(plan.hash)
            return
        self.disk = HighWater(*plan.order).encode()
        self.pending.append(plan.hash)
        if at_once:
            self.answer()

    @precondition(lambda self: self.pending)
    @rule()
    def answer(self) -> None:
        before = self.adopted
        plan = self.adoption.persisted(self.pending.pop(0), self.now.s)
        if plan is not None:
            assert before is None or plan.order >= before
            self.adopted = plan.order

    @rule(seconds=st.floats(0.1, 40))
    def time_passes(self, seconds: float) -> None:
        self.now = Now(self.now.s + seconds, self.now.unix_s + seconds)

    @rule()
    def crash_and_restart(self) -> None:
        mark = HighWater.decode(self.disk) if self.disk else None
        self.adoption = Adoption(SWARM, validate, TIMING, mark, met=lambda _: True)
        self.pending.clear()

    @invariant()
    def nothing_is_adopted_above_the_mark_on_disk(self) -> None:
        current = self.adoption.current
        if current is not None:
            assert self.disk is not None
            assert HighWater.decode(self.disk).order >= current.order
            assert self.adopted is not None
            assert current.order == self.adopted


TestAdoptionAgainstMax = AdoptionAgainstMax.TestCase
TestAdoptionAgainstMax.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.sampled_from([p for p in PLANS if p.plan.placement.solver == "good"])))
@settings(max_examples=150, deadline=None)
def test_peers_that_hear_the_same_honest_plans_in_any_order_hold_the_same(
    heard: list[SignedPlan],
) -> None:
    honest = {(p.plan.planner, p.plan.epoch): p for p in heard}
    held = set()
    for order in (list(honest.values()), list(reversed(honest.values()))):
        adoption = Adoption(SWARM, validate, TIMING, met=lambda _: True)
        for plan in order:
            with contextlib.suppress(PlanRejected):
                if adoption.offer(plan.record, Now(0.0, UNIX_S))[0] is Offer.PERSIST:
                    adoption.persisted(plan.hash, 0.0)
        held.add(adoption.current.hash if adoption.current else b"")
    possible = [p for p in honest.values() if p.plan.epoch <= highest_epoch_at(UNIX_S)]
    assert held == {max(possible, key=lambda p: p.order).hash if possible else b""}


@given(first=st.sampled_from(PLANS), second=st.sampled_from(PLANS))
@settings(max_examples=200, deadline=None)
def test_only_two_plans_of_one_key_and_epoch_are_a_proof(
    first: SignedPlan, second: SignedPlan
) -> None:
    adoption = Adoption(SWARM, lambda *_: None, TIMING, met=lambda _: True)
    lied = False
    for plan in (first, second):
        try:
            adoption.offer(plan.record, Now(0.0, UNIX_S))
        except Equivocation:
            lied = True
        except PlanRejected:
            pass
    same = (first.plan.planner, first.plan.epoch) == (second.plan.planner, second.plan.epoch)
    assert lied == (same and first.hash != second.hash)


@given(highest=st.integers(0, 2**62), unix_s=st.floats(0, 4e9))
def test_next_epoch_rises_and_never_runs_ahead(highest: int, unix_s: float) -> None:
    epoch = next_epoch(highest, unix_s)
    if epoch is None:
        assert highest >= highest_epoch_at(unix_s)
    else:
        assert highest < epoch <= highest_epoch_at(unix_s)


ROOT, INVITE = KEYS[0], KEYS[1]
ROOTED = swarm_id_of(ROOT.public_key)
CHAIN = certify(INVITE, grant(ROOT, INVITE, ALL_ROLES, UNIX_S + 60), KEYS[2].public_key)
LINE = create_invite(
    root=ROOT,
    invite_seed=INVITE.seed,
    addresses=["/ip4/127.0.0.1/tcp/1/p2p/x"],
    model_name="m",
    manifest_hash="",
    expires_unix_s=UNIX_S,
).to_text()


@given(place=st.integers(0, len(CHAIN) - 1), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_no_bit_of_a_certificate_can_be_flipped(place: int, bit: int) -> None:
    bent = bytearray(CHAIN)
    bent[place] ^= 1 << bit
    with contextlib.suppress(HandshakeRefused):
        roles = verify_credentials(
            bytes(bent),
            peer=KEYS[2].peer_id,
            swarm=ROOTED,
            root_public_key=ROOT.public_key,
            now_unix_s=UNIX_S,
        )
        # What is not signed (a signature's own public key is checked) can only be encoding slack.
        assert roles == ALL_ROLES


@given(st.one_of(st.text(max_size=200), st.text("helix1239abcXYZ", max_size=300)))
@settings(max_examples=300)
def test_any_text_is_an_invite_or_a_typed_error(text: str) -> None:
    for line in (text, "helix1" + text):
        with contextlib.suppress(InviteError):
            read_invite(line)


@given(st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_invite_is_refused(random: Random) -> None:
    characters = list(LINE)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(characters))
        characters[place] = random.choice("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijk")
    line = "".join(characters)
    if line != LINE:
        with contextlib.suppress(InviteError):
            raise AssertionError(f"taken: {read_invite(line)}")


@given(
    addresses=st.lists(st.text(max_size=40), max_size=4),
    name=st.text(max_size=40),
    manifest=st.binary(max_size=32).map(bytes.hex),
)
@settings(max_examples=60, deadline=None)
def test_invite_round_trips(addresses: list[str], name: str, manifest: str) -> None:
    invite = create_invite(
        root=ROOT,
        invite_seed=INVITE.seed,
        addresses=addresses,
        model_name=name,
        manifest_hash=manifest,
        expires_unix_s=UNIX_S,
    )
    again: Invite = read_invite(invite.to_text())
    assert again == invite


@given(
    key=st.sampled_from([member_key(SWARM, KEYS[0].peer_id), "helix/1/x", ""]),
    subkey=st.one_of(st.none(), st.text(max_size=20), st.just(KEYS[0].peer_id)),
    value=st.one_of(
        st.binary(max_size=300),
        st.builds(
            Signed,
            st.sampled_from(["announcement", "plan"]),
            st.just(SWARM),
            st.binary(max_size=50),
            st.just(KEYS[0].public_key),
            st.binary(min_size=64, max_size=64),
        ).map(codec.encode),
        st.binary(max_size=200).map(
            lambda body: codec.encode(KEYS[0].sign("announcement", SWARM, body))
        ),
    ),
    expires_in_s=st.floats(),
    now_unix_s=st.floats(),
)
@settings(max_examples=300, deadline=None)
def test_no_bytes_stand_in_the_dht_unless_their_owner_announced_itself(
    key: str, subkey: str | None, value: bytes, expires_in_s: float, now_unix_s: float
) -> None:
    with contextlib.suppress(RecordRejected):
        check_record(
            key, subkey, value, expires_in_s, rules=RecordRules(SWARM), now_unix_s=now_unix_s
        )
        raise AssertionError("taken")
