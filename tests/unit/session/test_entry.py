"""The entry machine against greedy clients, lying stages, full stages, and its own leaving."""

import random

import pytest

from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.route import Router
from helix_p2p.session.effects import ClientKey, Deliver, Send
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.generation import EntryLimits
from helix_p2p.session.limits import ModelLimits
from helix_p2p.session.messages import (
    Close,
    Delivered,
    Failure,
    Forward,
    Generate,
    Open,
    Opened,
    Phase,
    Refused,
    Sampled,
    Sampling,
    StageFailed,
)
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, LAST, OTHER = PeerId("me"), PeerId("last"), PeerId("other")
HOG, ANN = PeerId("hog"), PeerId("ann")
SERVING = {ME: LayerRange(0, 4), LAST: LayerRange(4, 8)}


FLOWS = (EdgeFlow(None, ME, 1), EdgeFlow(ME, LAST, 1), EdgeFlow(LAST, None, 1))


def machine(serving=SERVING, flows=FLOWS, **limits):
    router = Router(8)
    router.follow(Placement((), flows, 1, 1, MinCut(), "test", 0.0))
    entry = EntryMachine(
        ME, ModelLimits(8, 100, 50), router, random.Random(1), EntryLimits(**limits)
    )
    entry.see(serving, {}, 1, 0.0)
    return entry


def request(number=1, **more):
    tokens = 17 if more.pop("long", False) else 5
    return Generate(SessionId(number.to_bytes(16, "big")), (1, 2, 3), tokens, **more)


def ask(entry, number=1, client=ANN, now_s=0.0, **more):
    return entry.on_generate(ClientKey(f"{client}/0"), client, request(number, **more), now_s)


def opens(effects):
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Open)]


def refusals(effects):
    return [
        (e.to, e.message.failure.code)
        for e in effects
        if isinstance(e, Deliver) and isinstance(e.message, Refused)
    ]


def accept(entry, open_, now_s=0.0):
    for peer in SERVING:
        effects = entry.on_opened(peer, Opened(open_.session, open_.attempt), now_s)
    return effects


def turn_away(entry, open_, now_s=0.0):
    return entry.on_opened(LAST, Opened(open_.session, open_.attempt, Failure("busy", "")), now_s)


def token(entry, open_, position, token_id=7):
    sampled = Sampled((open_.session,), (open_.attempt,), (position,), (token_id,))
    return entry.on_sampled(LAST, sampled, 0.0)


def test_clients_with_the_same_session_id_do_not_meet_and_stages_never_see_it():
    entry = machine()
    first = opens(ask(entry, 1, ANN))[0]
    second = opens(ask(entry, 1, HOG))[0]
    assert len({first.session, second.session, request(1).session}) == 3
    accept(entry, first)
    accept(entry, second)
    for open_, client in ((first, ANN), (second, HOG)):
        (told,) = [e for e in token(entry, open_, 3) if isinstance(e, Deliver)]
        assert (told.to, told.message.session) == (f"{client}/0", request(1).session)
    assert refusals(ask(entry, 1, ANN)) == [("ann/0", "invalid_request")]


def test_each_pipeline_of_a_generation_has_a_name_that_its_last_one_could_not_foresee():
    entry = machine()
    first = opens(ask(entry))[0]
    accept(entry, first)
    entry.on_peer_lost(LAST, 1.0)
    again = opens(entry.tick(3.0))[0]
    assert again.session != first.session
    assert again.attempt > first.attempt
    assert token(entry, first, 3) == []


@pytest.mark.parametrize("code", ["invalid_request", "prompt_too_long", "cancelled", "nonsense"])
@pytest.mark.parametrize("accused", [ME, OTHER, LAST])
def test_stage_can_neither_blame_the_entry_peer_nor_end_a_request_as_wrong(code, accused):
    entry = machine()
    open_ = opens(ask(entry))[0]
    accept(entry, open_)
    failed = StageFailed(open_.session, open_.attempt, accused, Failure(code, "because I say so"))
    effects = entry.on_stage_failed(LAST, failed, 0.0)
    assert refusals(effects) == []
    assert entry.waiting == 1, "it waits for the last stage's mask to end"
    assert len(opens(entry.tick(2.0))) == 2


@pytest.mark.parametrize("code", ["invalid_request", "prompt_too_long", "cancelled", "nonsense"])
def test_repairs_are_finite_and_the_client_hears_of_the_pipeline_not_of_its_request(code):
    entry = machine()
    effects, now_s, tries = ask(entry), 0.0, 0
    while not refusals(effects):
        for open_ in opens(effects):
            if open_.last:
                failed = Failure(code, "x" * 5000)
                tries += 1
                effects = entry.on_opened(LAST, Opened(open_.session, open_.attempt, failed), now_s)
                break
        else:
            now_s += 1.0
            effects = entry.tick(now_s)
    assert refusals(effects) == [("ann/0", "protocol")]
    assert tries <= EntryLimits().repairs + 1
    assert len(effects[-1].message.failure.message) <= 1000


def test_repairs_are_finite_where_there_is_always_another_peer_to_try():
    many = {PeerId(f"last{n}"): LayerRange(4, 8) for n in range(40)}
    entry = machine({ME: LayerRange(0, 4), **many})
    effects, tries = ask(entry), 0
    while not refusals(effects):
        (open_,) = [o for o in opens(effects) if o.last]
        (at,) = [e.to for e in effects if isinstance(e, Send) and e.message == open_]
        failed = Failure("poisoned", "it never ends")
        effects = entry.on_opened(at, Opened(open_.session, open_.attempt, failed), 0.0)
        tries += 1
    assert tries == EntryLimits().repairs + 1


def test_one_client_cannot_fill_the_line_for_others():
    entry = machine(serving={ME: LayerRange(0, 4)}, waiting_sessions=8)
    for number in range(8):
        assert refusals(ask(entry, number, HOG)) == []
    assert refusals(ask(entry, 8, HOG)) == [("hog/0", "busy")]
    taken = 0
    for number in range(8):
        effects = refusals(ask(entry, number, ANN))
        taken += effects == [("hog/0", "busy")]
    assert taken == 4
    assert entry.waiting == 8


def test_one_client_has_a_bounded_number_of_generations():
    entry = machine(sessions_per_client=3)
    codes = [refusals(ask(entry, number, HOG)) for number in range(5)]
    assert codes == [[], [], [], [("hog/0", "busy")], [("hog/0", "busy")]]
    assert refusals(ask(entry, 9, ANN)) == []


def test_client_that_starts_and_cancels_over_and_over_is_slowed_down():
    entry = machine(sessions_per_client=10, starts_per_s=5.0)
    started = 0
    for number in range(1000):
        now_s = number / 100
        started += refusals(ask(entry, number, HOG, now_s)) == []
        entry.on_cancel(ClientKey("hog/0"), request(number).session, now_s)
    assert started <= 10 + 5 * 10
    assert refusals(ask(entry, 1, ANN, 10.0)) == []


def test_generations_that_a_full_stage_turned_away_do_not_go_before_other_clients():
    entry = machine()
    hogs = [opens(ask(entry, number, HOG))[0] for number in range(20)]
    for open_ in hogs[:10]:
        accept(entry, open_)
    for open_ in hogs[10:]:
        turn_away(entry, open_)
    ask(entry, 1, ANN)
    next_up = opens(entry.tick(5.0))
    assert len(next_up) == 2, "one at a time, while the stage is full"
    accept(entry, next_up[0])
    (told,) = [e for e in token(entry, next_up[0], 3) if isinstance(e, Deliver)]
    assert told.to == "ann/0"


def test_full_stage_is_not_asked_over_and_over():
    entry = machine(waiting_s=100.0)
    queue = [o for number in range(100) for o in opens(ask(entry, number)) if o.last]
    asked = 0
    for tick in range(100):
        asked += len(queue)
        queue = [o for open_ in queue for o in opens(turn_away(entry, open_, tick / 10)) if o.last]
        queue += [o for o in opens(entry.tick(tick / 10)) if o.last]
    assert entry.waiting + entry.running == 100
    assert asked <= 64 + 20, "64 at first, then one for each time that the mask ends"


def test_generation_that_ran_goes_before_those_that_never_did():
    entry = machine()
    ran = opens(ask(entry, 1, HOG))[0]
    accept(entry, ran)
    entry.on_peer_lost(LAST, 1.0)
    ask(entry, 2, ANN, 1.0)
    first = opens(entry.tick(3.0))[0]
    accept(entry, first)
    (told,) = [e for e in token(entry, first, 3) if isinstance(e, Deliver)]
    assert told.to == "hog/0"


def test_peer_that_leaves_sends_what_waits_elsewhere_and_finishes_what_runs():
    entry = machine()
    open_ = opens(ask(entry, 1, ANN))[0]
    accept(entry, open_)
    entry.see({ME: SERVING[ME]}, {}, 1, 0.0)
    ask(entry, 2, HOG)
    gone = entry.see({ME: SERVING[ME]}, {}, 1, 0.0, draining=True)
    assert refusals(gone) == [("hog/0", "not_serving")]
    assert refusals(ask(entry, 3, HOG)) == [("hog/0", "not_serving")]
    assert any(isinstance(e, Deliver) for e in token(entry, open_, 3))
    lost = entry.on_peer_lost(LAST, 1.0)
    assert refusals(lost) == [("ann/0", "not_serving")], "it cannot be repaired from here"
    assert entry.running == entry.waiting == 0


def test_own_stage_without_room_makes_a_generation_wait():
    entry = machine()
    open_ = opens(ask(entry))[0]
    for code in ("out_of_memory", "not_serving", "busy"):
        failure = Failure(code, "not now")
        effects = entry.on_opened(ME, Opened(open_.session, open_.attempt, failure), 0.0)
        assert refusals(effects) == []
        open_ = opens(entry.tick(10.0))[0]


@pytest.mark.parametrize(
    "more",
    [
        {"eos": tuple(range(65))},
        {"avoid": tuple(PeerId(str(n)) for n in range(65))},
        {"sampling": Sampling(temperature=float("nan"))},
        {"sampling": Sampling(top_p=float("nan"))},
        {"sampling": Sampling(repetition_penalty=float("inf"))},
        {"generated": (-1,)},
        {"generated": (1, 2, 3, 4, 5)},
        {"budget_s": -1.0},
        {"budget_s": float("nan")},
    ],
    ids=str,
)
def test_unusable_request_is_refused_as_such(more):
    assert refusals(ask(machine(), **more)) == [("ann/0", "invalid_request")]


def test_client_that_leaves_frees_every_stage():
    entry = machine()
    open_ = opens(ask(entry))[0]
    accept(entry, open_)
    closed = entry.on_client_lost(ClientKey("ann/0"), 1.0)
    assert {(e.to, e.message) for e in closed} == {
        (peer, Close(open_.session, open_.attempt)) for peer in SERVING
    }
    assert entry.running == 0
    assert token(entry, open_, 3) == []


def test_tokens_count_only_from_the_last_stage_and_at_their_place():
    entry = machine()
    open_ = opens(ask(entry))[0]
    accept(entry, open_)
    row = ((open_.session,), (open_.attempt,))
    assert entry.on_sampled(OTHER, Sampled(*row, (3,), (7,)), 0.0) == []
    assert entry.on_sampled(LAST, Sampled(*row, (4,), (7,)), 0.0) == []
    delivered = [e for e in token(entry, open_, 3) if isinstance(e, Deliver)]
    assert isinstance(delivered[0].message, Delivered)
    assert entry.on_sampled(LAST, Sampled(*row, (3,), (8,)), 0.0) == []


def decoded(effects):
    """Sessions of the decode frames among the effects."""
    frames = [e.message for e in effects if isinstance(e, Send)]
    return [f.sessions for f in frames if isinstance(f, Forward) and f.phase is Phase.DECODE]


def test_token_that_stays_away_holds_up_the_others_of_its_frame_only_for_a_moment():
    entry = machine(token_deadline_s=20.0)
    lost, kept = (opens(ask(entry, number))[0] for number in (1, 2))
    for open_ in (lost, kept):
        accept(entry, open_)
    both = Sampled((lost.session, kept.session), (1, 1), (3, 3), (7, 7))
    entry.see(SERVING, {ME: "here", LAST: "here"}, 1, 0.0)  # one host: one frame in flight
    assert decoded(entry.on_sampled(LAST, both, 0.0)) == [(lost.session, kept.session)]
    one = Sampled((kept.session,), (1,), (4,), (7,))
    assert decoded(entry.on_sampled(LAST, one, 0.1)) == []
    assert decoded(entry.tick(1.0)) == []
    assert decoded(entry.tick(2.2)) == [(kept.session,)]
    late = Sampled((lost.session,), (1,), (4,), (7,))
    one = Sampled((kept.session,), (1,), (5,), (7,))
    assert decoded(entry.on_sampled(LAST, late, 2.3)) == []
    assert decoded(entry.on_sampled(LAST, one, 2.4)) == [(lost.session, kept.session)]


@pytest.mark.parametrize("serving", [SERVING, {ME: LayerRange(0, 4)}], ids=["runs", "waits"])
def test_generation_ends_when_its_client_has_given_up(serving):
    entry = machine(serving)
    for open_ in opens(ask(entry, budget_s=3.0)):
        accept(entry, open_)
    assert refusals(entry.tick(2.9)) == []
    assert refusals(entry.tick(3.0)) == [("ann/0", "deadline_exceeded")]
    assert entry.running == entry.waiting == 0
    assert not entry.owes(ClientKey("ann/0"))


def test_peer_that_was_given_other_layers_refuses_what_waits_and_finishes_what_runs():
    entry = machine()
    running = opens(ask(entry, 1))[0]
    accept(entry, running)
    repaired = opens(ask(entry, 2))[0]
    accept(entry, repaired)
    failed = StageFailed(repaired.session, repaired.attempt, LAST, Failure("peer_lost", ""))
    entry.on_stage_failed(LAST, failed, 0.0)
    assert (entry.running, entry.waiting) == (1, 1)
    elsewhere = {ME: LayerRange(4, 8), OTHER: LayerRange(0, 4)}
    assert refusals(entry.see(elsewhere, {}, 2, 0.1)) == [("ann/0", "not_serving")]
    assert refusals(ask(entry, 3)) == [("ann/0", "not_serving")]
    assert [e.message.tokens for e in token(entry, running, 3) if isinstance(e, Deliver)] == [(7,)]
    assert refusals(entry.on_peer_lost(LAST, 0.2)) == [("ann/0", "not_serving")]


def test_stage_that_has_become_slow_is_left_out_where_there_is_a_way_around():
    flows = (
        EdgeFlow(None, ME, 2),
        *(EdgeFlow(ME, last, 1) for last in (LAST, OTHER)),
        *(EdgeFlow(last, None, 1) for last in (LAST, OTHER)),
    )
    entry = machine({**SERVING, OTHER: LayerRange(4, 8)}, flows)
    now_s, used = 0.0, []
    for number in range(60):
        open_ = opens(ask(entry, number, now_s=now_s, ignore_eos=True, long=True))[0]
        last = open_.next
        for peer in (ME, last):
            entry.on_opened(peer, Opened(open_.session, open_.attempt), now_s)
        for position in range(3, 20):
            sampled = Sampled((open_.session,), (open_.attempt,), (position,), (7,))
            entry.on_sampled(last, sampled, now_s)
            now_s += 0.1 if last == OTHER and number > 20 else 0.01
        used.append(last)
    assert {LAST, OTHER} == set(used[:20])
    assert OTHER not in used[35:]
