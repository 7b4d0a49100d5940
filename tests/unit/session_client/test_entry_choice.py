from collections import Counter
from random import Random

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.session.entry_choice import EntryCandidate, EntryChoice, entry_candidates
from helix_p2p.types import LayerRange, PeerId, SessionId

A, B, C = PeerId("A"), PeerId("B"), PeerId("C")


def announcement(state: PeerState, serving: LayerRange | None) -> Announcement:
    return Announcement(1, 1, 0.0, "m", state, 1, serving=serving, addresses=("/ip4/1",))


def choice(*candidates: EntryCandidate, seed: int = 0) -> EntryChoice:
    made = EntryChoice(Random(seed))
    made.update(candidates)
    return made


def test_candidates_serve_layer_0_and_carry_the_plans_flow():
    placement = Placement(
        assignments=(),
        flows=(
            EdgeFlow(None, A, 5000),
            EdgeFlow(None, B, 3000),
            EdgeFlow(A, None, 5000),
            EdgeFlow(B, None, 3000),
        ),
        value_mtokens_per_s=8000,
        bound_mtokens_per_s=8000,
        min_cut=MinCut(),
        solver="beam",
        solve_s=0.1,
    )
    announced = [
        (B, announcement(PeerState.LOADING, LayerRange(0, 2))),
        (A, announcement(PeerState.SERVING, LayerRange(0, 2))),
        (C, announcement(PeerState.SERVING, LayerRange(0, 4))),
        (PeerId("D"), announcement(PeerState.SERVING, LayerRange(1, 4))),
        (PeerId("E"), announcement(PeerState.STANDBY, None)),
        (PeerId("F"), announcement(PeerState.DRAINING, LayerRange(0, 4))),
    ]
    found = entry_candidates(placement, announced)
    assert [(c.peer, c.weight) for c in found] == [(A, 5000), (B, 3000), (C, 0)]
    assert [c.weight for c in entry_candidates(None, announced)] == [0, 0, 0]


def test_first_picks_of_many_clients_follow_the_weights():
    firsts = Counter(
        choice(EntryCandidate(A, 3000), EntryCandidate(B, 1000), seed=seed).pick(0.0)
        for seed in range(400)
    )
    assert 260 <= firsts[A] <= 340


def test_a_conversation_goes_back_to_the_entry_peer_that_answered_it():
    one = choice(EntryCandidate(A, 1000), EntryCandidate(B, 1000), seed=1)
    talk = tuple(range(200))
    one.pick(0.0, tokens=talk)
    one.answered(talk, B)
    assert {one.pick(0.0, tokens=(*talk, *range(9))) for _ in range(3)} == {B}
    assert one.pick(0.0, exclude={B}, tokens=talk) == A
    other = Counter(one.pick(0.0, tokens=range(500, 700)) for _ in range(40))
    assert abs(other[A] - other[B]) <= 4


def test_picks_of_one_client_follow_the_weights_exactly():
    one = choice(EntryCandidate(A, 3000), EntryCandidate(B, 1000), seed=1)
    picks = Counter(one.pick(0.0) for _ in range(40))
    assert abs(picks[A] - 30) <= 1


def test_peer_without_flow_is_picked_only_when_no_other_is_left():
    one = choice(EntryCandidate(A, 1), EntryCandidate(B, 0))
    assert {one.pick(0.0) for _ in range(5)} == {A}
    one.mask(A, 0.0)
    assert one.pick(0.0) == B
    assert one.pick(0.0, exclude={B}) is None
    assert one.pick_last_resort() == A


def test_mask_ends_by_itself_and_by_success():
    one = choice(EntryCandidate(A, 1))
    one.mask(A, 0.0)
    assert one.masked(1.0) == {A}
    assert one.pick(1.0) is None
    assert one.pick(100.0) == A
    one.mask(A, 200.0)
    one.clear(A)
    assert one.pick(200.0) == A


def test_no_candidates_is_none():
    assert choice().pick(0.0) is None
    assert choice().pick_last_resort() is None


def test_entry_peer_that_has_become_slow_is_asked_only_where_nobody_else_is_left():
    client = choice(EntryCandidate(A, 1), EntryCandidate(B, 1))
    now_s = 0.0
    for number in range(40):
        session, peer = SessionId(number.to_bytes(16, "big")), (A, B)[number % 2]
        for _ in range(9):
            client.token(session, peer, now_s)
            now_s += 0.1 if peer == A and number > 20 else 0.01
        client.over(session)
    assert {client.pick(now_s) for _ in range(10)} == {B}
    assert client.pick(now_s, {B}) == A


def test_of_the_plans_only_entry_peer_that_has_become_slow_another_is_tried_once_a_while():
    client = choice(EntryCandidate(A, 1), EntryCandidate(B, 0))
    now_s = 0.0
    for number, step_s in enumerate([0.01] * 3 + [0.1] * 3):
        session = SessionId(number.to_bytes(16, "big"))
        for _ in range(9):
            client.token(session, A, now_s)
            now_s += step_s
        client.over(session)
    assert [client.pick(now_s) for _ in range(3)] == [B, A, A]
