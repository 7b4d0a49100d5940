"""Every decoder takes every kept input, and some fresh ones, with its own errors and within bounds.

Coverage-guided fuzzing is `./scripts/fuzz`; what it found worth keeping is read again here.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec
import pytest

from helix_p2p import codec
from helix_p2p.cluster.announcement import open_announcement
from helix_p2p.errors import DecodeError
from helix_p2p.identity import Signed
from helix_p2p.session.messages import Generate
from helix_p2p.wire.registry import NUMBER_OF_TYPE
from tests.fuzz import corpus, seeds
from tests.fuzz.decoder import Decoder
from tests.fuzz.decoders import decoders
from tests.fuzz.judge import Judge
from tests.fuzz.mutation import bombs, mutate_bytes
from tests.fuzz.run import last_input
from tests.fuzz.trees import opened, sealed

FRESH = 300
FRESH_TALKS = 60
"""Of `member` and `open-member`, which take a whole conversation for each."""
BOMBS = 3
NAMES = list(decoders())


@pytest.fixture(scope="module")
def judges() -> dict[str, Judge]:
    return {}


def judge_of(name: str, judges: dict[str, Judge]) -> Judge:
    return judges.setdefault(name, Judge(decoders()[name]))


def said(judge: Judge) -> list[str]:
    return [f"{it.what} {it.where} {it.detail} {it.data[:200]!r}" for it in judge.findings.values()]


@pytest.mark.parametrize("name", NAMES)
def test_decoder_stays_within_bounds_for_kept_inputs(name, judges):
    judge = judge_of(name, judges)
    kept = corpus.load(name)
    assert kept, "no inputs are kept for this decoder: run ./scripts/fuzz --keep"
    for data in (*judge.decoder.seeds(), *kept):
        judge(data, memory=True)
    assert said(judge) == []
    assert judge.accepted, "not even a valid input was taken"


@pytest.mark.parametrize("name", NAMES)
def test_decoder_stays_within_bounds_for_fresh_inputs(name, judges):
    judge = judge_of(name, judges)
    decoder, random = judge.decoder, Random(f"fuzz {name}")
    known = [*decoder.seeds(), *corpus.load(name)]
    for number in range(FRESH_TALKS if name.endswith("member") else FRESH):
        data = decoder.mutate(random.choice(known), random, min(decoder.limit_bytes, 65_536))
        judge(data, memory=number % 8 == 0)
    assert said(judge) == []


@pytest.mark.parametrize("name", [name for name in NAMES if decoders()[name].bombs])
def test_longest_lists_of_least_entries_stay_within_bounds(name, judges):
    judge = judge_of(name, judges)
    decoder, random = judge.decoder, Random(f"bombs {name}")
    for seed in random.sample(decoder.seeds(), min(4, len(decoder.seeds()))):
        found = bombs(seed, decoder.limit_bytes - 512)
        for data in random.sample(found, min(BOMBS, len(found))):
            judge(data, memory=True)
    assert said(judge) == []


def test_a_prompt_longer_than_any_context_is_refused_unread():
    long = Generate(b"s" * 16, (1,) * 200_000, 5)
    with pytest.raises(DecodeError, match="length <= 131072"):
        codec.decode(codec.encode(long), Generate, limit_bytes=1 << 21)


# ── the judge itself ───────────────────────────────────────────────────────────────────────────


def findings_of(read, *, again=None, limit_bytes=10_000):
    decoder = Decoder("test", read, lambda: [b""], limit_bytes, again=again)
    judge = Judge(decoder)
    judge(b"input", memory=True)
    return {it.what for it in judge.findings.values()}


def test_judge_finds_what_must_not_be():
    def spin(data):
        end_s = time.thread_time() + 0.12
        while data and time.thread_time() < end_s:
            pass

    def refuse(_data):
        raise DecodeError("no")

    assert findings_of(refuse) == set()
    assert findings_of(lambda data: data and int(data)) == {"exception"}
    assert findings_of(lambda data: data and bytearray(2_000_000)) == {"memory"}
    assert findings_of(spin) == {"time"}
    assert findings_of(bytes, again=lambda value: (b"1", b"2")) == {"canonical"}
    assert findings_of(bytes, again=lambda value: (value, value)) == set()


HANGS = """
import sys
from pathlib import Path
from tests.fuzz import run
from tests.fuzz.decoder import Decoder
from tests.fuzz.judge import Judge

def read(data):
    while data == b"for ever":
        pass

run.HANGS_CPU_S = 0.3
watched = run._watched(Path(sys.argv[1]), Judge(Decoder("x", read, lambda: [b""], 100)), 100)
watched(b"short")
watched(b"for ever")
"""


def test_input_on_which_a_decoder_hangs_is_found_by_processor_time(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", HANGS, tmp_path], cwd=Path(__file__).parents[2], check=False
    )
    assert ended.returncode == -signal.SIGPROF
    assert last_input(tmp_path) == b"for ever"


def test_changed_tree_is_signed_anew_so_that_what_lies_behind_is_reached():
    tree = msgspec.msgpack.decode(opened(seeds.announcements()[0]))
    tree["~"][3]["public_name"] = "changed"
    record = codec.decode(sealed(codec.encode(tree)), Signed, limit_bytes=1 << 16)
    assert open_announcement(record, seeds.SWARM).public_name == "changed"


def test_corpus_gives_back_what_was_kept(tmp_path):
    inputs = [b"", b"a", b"\0" * 1000, Random(1).randbytes(300)]
    corpus.save("x", inputs, tmp_path)
    assert corpus.load("x", tmp_path) == sorted(inputs, key=len)


def test_the_same_chance_gives_the_same_input():
    assert mutate_bytes(b"abc", Random(3), 99) == mutate_bytes(b"abc", Random(3), 99)
    for decoder in decoders().values():
        seed = decoder.seeds()[0]
        assert decoder.mutate(seed, Random(7), 9999) == decoder.mutate(seed, Random(7), 9999)


def test_every_message_of_the_wire_has_a_seed():
    made = {type(value) for value in (*seeds.member_messages(), *seeds.session_messages())}
    assert made == set(NUMBER_OF_TYPE)


@pytest.mark.parametrize("name", ["member", "open-member"])
def test_valid_letters_come_to_a_member_as_messages(name: str) -> None:
    decoder = decoders()[name]
    assert all(decoder.prepare(seed) for seed in decoder.seeds())
