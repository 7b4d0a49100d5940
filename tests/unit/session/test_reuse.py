from msgspec.structs import replace

from helix_p2p.routing.admission import KvLedger, token_layers_of
from helix_p2p.session.effects import CloseCache
from helix_p2p.session.messages import Open
from helix_p2p.session.open_sessions import StageSessions
from helix_p2p.session.prefixes import PREFIX_BLOCK_TOKENS, KvCopy
from helix_p2p.session.reuse import Reuse, cache_of
from helix_p2p.types import LayerRange, PeerId, SessionId

ENTRY = PeerId("entry")
CHAIN = tuple(bytes([n]) * 16 for n in range(4))  # what runs before the stage, and three blocks
KV_TOKENS = 4 * PREFIX_BLOCK_TOKENS
ROOM = token_layers_of(KV_TOKENS, LayerRange(0, 4))
OLD, NEW, OTHER = (SessionId(name * 16) for name in (b"o", b"n", b"x"))


def opening(session, chain=CHAIN):
    return Open(
        session, 1, 1, LayerRange(0, 4), ENTRY, ENTRY, PeerId("next"), KV_TOKENS, None, chain
    )


def kept(reuse, session=OLD, chain=CHAIN):
    cache = cache_of(opening(session), chain, 3 * PREFIX_BLOCK_TOKENS)
    assert cache is not None
    return reuse.keep(session, cache)


def never(known):
    raise AssertionError("nothing runs")


def test_a_session_begins_with_what_is_kept_as_far_as_both_begin_alike():
    reuse = Reuse(KvLedger(10 * ROOM))
    assert kept(reuse) == []
    alike = opening(NEW, (*CHAIN[:3], b"z" * 16))
    assert reuse.begin(alike, {}, never) == (KvCopy(OLD, 2 * PREFIX_BLOCK_TOKENS), [])
    assert reuse.begin(opening(NEW, ()), {}, never) == (None, [])


def test_of_what_runs_only_what_is_written_is_taken_over():
    reuse = Reuse(KvLedger(10 * ROOM))
    sessions = StageSessions()
    sessions.add(opening(OLD), 0.0, 0)
    for written, blocks in ((70, 1), (3 * PREFIX_BLOCK_TOKENS, 3)):
        copy, gone = reuse.begin(opening(NEW), sessions.all, lambda _, w=written: w)
        assert (copy, gone) == (KvCopy(OLD, blocks * PREFIX_BLOCK_TOKENS), [])
    assert reuse.begin(opening(NEW), sessions.all, lambda _: 63) == (None, [])
    stranger = replace(opening(NEW), entry=PeerId("stranger"))
    assert reuse.begin(stranger, sessions.all, lambda _: 64) == (None, [])


def test_nothing_is_copied_from_a_cache_that_made_room_for_the_copy():
    ledger = KvLedger(ROOM)
    reuse = Reuse(ledger)
    kept(reuse)
    ledger.reserve(NEW, ENTRY, ROOM, 10.0)
    assert reuse.begin(opening(NEW), {}, never) == (None, [CloseCache(OLD)])
    assert len(reuse) == 0


def test_a_name_that_begins_anew_is_not_kept_any_more():
    reuse = Reuse(KvLedger(10 * ROOM))
    kept(reuse)
    assert reuse.begin(opening(OLD), {}, never) == (None, [CloseCache(OLD)])


def test_a_cache_is_worth_keeping_only_with_a_whole_block_and_a_chain_that_fits_it():
    assert cache_of(opening(OLD), CHAIN, PREFIX_BLOCK_TOKENS - 1) is None
    assert cache_of(opening(OLD), (), KV_TOKENS) is None
    assert cache_of(opening(OLD), tuple(bytes(16) for _ in range(6)), KV_TOKENS) is None
    assert cache_of(opening(OLD), tuple(bytes(16) for _ in range(5)), KV_TOKENS) is not None


def test_all_goes_when_memory_is_needed_or_the_layers_are_not_served():
    reuse = Reuse(KvLedger(10 * ROOM))
    kept(reuse)
    kept(reuse, OTHER, (b"y" * 16, *CHAIN[1:]))
    assert reuse.fit_layers(LayerRange(0, 4)) == []
    assert reuse.forget_all() == [CloseCache(OLD), CloseCache(OTHER)]
    kept(reuse)
    assert reuse.fit_layers(LayerRange(1, 5)) == [CloseCache(OLD)]
