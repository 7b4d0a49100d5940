"""What a stage keeps of ended sessions, who may use it, and what it gives up first."""

import pytest

from helix_p2p.errors import ProtocolError
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.route import Hop
from helix_p2p.session.effects import CloseCache, OpenCache, Send
from helix_p2p.session.limits import ModelLimits, check_prefix
from helix_p2p.session.messages import Close, Forward, Open, Opened, Phase
from helix_p2p.session.prefixes import KEEP_S, KvCopy, chain_of, upstream_of
from helix_p2p.session.stage import StageMachine
from helix_p2p.types import LayerRange, PeerId, SessionId

ME, ENTRY, OTHER, BEFORE, AFTER = (PeerId(p) for p in ("me", "entry", "other", "before", "after"))
MODEL = ModelLimits(layers=8, context_tokens=1000, vocab_size=100)
LAYERS = LayerRange(2, 4)
UP = b"u" * 16
CHAIN = (UP, b"1" * 16, b"2" * 16, b"3" * 16)


def name(number: int) -> SessionId:
    return SessionId(bytes([number]) * 16)


class Stage:
    def __init__(self, kv: int = 4000) -> None:
        self.ledger = KvLedger(kv)
        self.machine: StageMachine[str] = StageMachine(ME, MODEL, self.ledger)
        self.machine.serve(LayerRange(2, 6))

    def open(self, number, chain=(), *, entry=ENTRY, layers=LAYERS, kv_tokens=200):
        message = Open(
            name(number), 1, 1, layers, entry, BEFORE, AFTER, kv_tokens, prefix=tuple(chain)
        )
        return self.machine.on_open(entry, message, 0.0)

    def run(self, number, count, position=0):
        message = Forward(Phase.PREFILL, (name(number),), (1,), (position,), (count,), (False,))
        effects = self.machine.on_forward(BEFORE, message, ["x"], 0.0)
        self.machine.on_step_done([None])
        return effects

    def close(self, number, chain=(), entry=ENTRY):
        return self.machine.on_close(entry, Close(name(number), 1, tuple(chain)))

    def ran(self, number, count, chain, **more):
        self.open(number, **more)
        self.run(number, count)
        return self.close(number, chain, more.get("entry", ENTRY))


def begun(effects):
    (opened,) = (e for e in effects if isinstance(e, OpenCache))
    (answer,) = (
        e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Opened)
    )
    assert answer.failure is None
    assert answer.reused == (opened.begin.positions if opened.begin else 0)
    return opened.begin


def test_a_chain_stands_for_all_tokens_before() -> None:
    tokens = list(range(200))
    chain = chain_of(b"secret", ENTRY, tokens)
    assert len(chain) == 3
    assert chain_of(b"secret", ENTRY, tokens, chain[:2]) == chain
    assert chain_of(b"secret", ENTRY, tokens[:191]) == chain[:2]
    changed = chain_of(b"secret", ENTRY, [*tokens[:63], 5, *tokens[64:]])
    assert not set(changed) & set(chain)
    assert not set(chain_of(b"secret", OTHER, tokens)) & set(chain)
    assert not set(chain_of(b"another", ENTRY, tokens)) & set(chain)


def test_the_first_link_stands_for_everything_upstream() -> None:
    route = (Hop(ME, LayerRange(0, 2)), Hop(BEFORE, LayerRange(2, 4)), Hop(AFTER, LayerRange(4, 8)))
    shorter = (Hop(ME, LayerRange(0, 3)), Hop(BEFORE, LayerRange(3, 4)), route[2])
    other = (route[0], Hop(OTHER, LayerRange(2, 4)), route[2])
    assert upstream_of(route, 1) == upstream_of(other, 1) != upstream_of(shorter, 1)
    assert len({upstream_of(way, 2) for way in (route, shorter, other)}) == 3


def test_what_ended_well_is_kept_and_begun_with() -> None:
    stage = Stage()
    assert stage.ran(1, 150, CHAIN) == []
    assert stage.machine.kept == 1
    assert stage.ledger.used_token_layers == 0
    assert begun(stage.open(2, CHAIN)) == KvCopy(name(1), 128)  # whole blocks of 150 positions
    assert begun(stage.open(3, (*CHAIN[:2], b"9" * 16))) == KvCopy(name(1), 64)


@pytest.mark.parametrize(
    "asked",
    [
        {"chain": CHAIN, "entry": OTHER},
        {"chain": CHAIN, "layers": LayerRange(2, 5)},
        {"chain": (b"v" * 16, *CHAIN[1:])},
        {"chain": (UP, b"9" * 16, *CHAIN[2:])},
        {"chain": ()},
    ],
)
def test_nothing_else_is_ever_begun_with(asked) -> None:
    stage = Stage()
    stage.ran(1, 150, CHAIN)
    assert begun(stage.open(2, **asked)) is None


def test_a_running_session_lends_only_what_it_has_computed() -> None:
    stage = Stage()
    stage.open(1, CHAIN)
    assert begun(stage.open(2, CHAIN)) is None
    stage.run(1, 100)
    assert begun(stage.open(3, CHAIN)) == KvCopy(name(1), 64)


def test_the_prefill_may_begin_anywhere_in_what_was_reused() -> None:
    for position in (0, 64, 128):
        stage = Stage()
        stage.ran(1, 150, CHAIN)
        stage.open(2, CHAIN)
        (step,) = stage.run(2, 5, position)
        assert step.rows[0].position == position
        again = Forward(Phase.PREFILL, (name(2),), (1,), (position,), (5,), (False,))
        assert stage.machine.on_forward(BEFORE, again, ["x"], 0.0) == []
        (step,) = stage.run(2, 5, position + 5)


def test_reserved_room_goes_before_kept_room_oldest_first() -> None:
    stage = Stage(kv=3 * 208 * 2)
    for number in (1, 2, 3):
        chain = (UP, *(bytes([number]) * 16 for _ in range(2)))
        stage.ran(number, 150, chain)
    assert stage.machine.kept == 3
    assert begun(stage.open(4, (UP, bytes([1]) * 16))) == KvCopy(name(1), 64)  # used just now
    effects = stage.open(5)
    assert CloseCache(name(3)) in effects
    effects = stage.open(6)
    assert CloseCache(name(1)) in effects
    assert stage.machine.kept == 0


def test_what_is_begun_with_gives_way_too_where_there_is_no_room_beside() -> None:
    stage = Stage(kv=208 * 2)
    stage.ran(1, 150, CHAIN)
    effects = stage.open(2, CHAIN)
    assert effects[0] == CloseCache(name(1))
    assert begun(effects) is None


def test_a_longer_turn_takes_the_place_of_the_one_before() -> None:
    stage = Stage()
    stage.ran(1, 130, CHAIN[:3])
    assert stage.ran(2, 200, CHAIN) == [CloseCache(name(1))]
    assert stage.machine.kept == 1


def test_useless_or_hostile_closes_keep_nothing() -> None:
    for count, chain in ((63, CHAIN), (150, ()), (150, (UP,)), (150, (UP,) * 9)):
        stage = Stage()
        assert stage.ran(1, count, chain) == [CloseCache(name(1))]
        assert stage.machine.kept == 0


def test_kept_caches_end_in_time_with_their_layers_and_with_their_name() -> None:
    stage = Stage()
    stage.ran(1, 150, CHAIN)
    assert stage.machine.tick(10.0) == []
    assert stage.machine.tick(10.0 + KEEP_S) == [CloseCache(name(1))]
    stage.ran(2, 150, CHAIN)
    assert stage.machine.serve(LayerRange(3, 6)) == [CloseCache(name(2))]
    stage.machine.serve(LayerRange(2, 6))
    stage.ran(3, 150, CHAIN)
    assert stage.machine.forget_kept() == [CloseCache(name(3))]
    stage.ran(4, 150, CHAIN)
    assert stage.open(4)[0] == CloseCache(name(4))
    assert stage.machine.kept == 0


def test_a_stage_that_shrank_gives_up_what_it_kept() -> None:
    stage = Stage()
    stage.ran(1, 150, CHAIN)
    stage.ledger.resize(100)
    assert stage.machine.tick(0.0) == [CloseCache(name(1))]


@pytest.mark.parametrize("chain", [(b"short",), (UP,) * 17])
def test_a_chain_that_no_session_has_is_refused(chain) -> None:
    with pytest.raises(ProtocolError, match="a prefix is"):
        check_prefix(chain, MODEL)
