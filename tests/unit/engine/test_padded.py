"""Rows attended to all at once, over a paged cache, equal rows one by one; so do replayed steps."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helix_p2p.engine.contract import StepRow
from helix_p2p.engine.graphs import DecodeGraphs, Replay
from helix_p2p.engine.kv_paged import PagedKvPool
from helix_p2p.engine.runner import Rows
from helix_p2p.engine.torch_engine import EngineConfig
from helix_p2p.errors import Busy
from helix_p2p.session.prefixes import KvCopy
from helix_p2p.types import LayerRange
from tests.unit.engine.tiny import LAYERS, Chain, make_model, row, session

STAGES = [((0, 3), (0, 2)), ((1, 5), (2, 4)), ((3, 6), (4, 6))]
WHOLE = LayerRange(0, LAYERS)
KINDS = ["Llama", "Mistral", "Gemma2", "GptOss", "DeepseekV3", "GPT2", "Qwen3Moe"]
"""Grouped heads, sliding windows, soft caps, sinks, a latent cache, a position table, experts."""


class CallAgain:
    """A recorder for any device: the work is done again."""

    def record(self, work: Callable[[], torch.Tensor]) -> tuple[Replay, torch.Tensor]:
        """Keep the result where the first one was."""
        result = work().clone()

        def again() -> None:
            result.copy_(work())

        return again, result


def chain_of(folder: Path, *, record: bool = False, stages=STAGES) -> Chain:
    chain = Chain(folder, stages, EngineConfig(1 << 30, rows=Rows.PADDED))
    for engine, _ in chain.stages:
        runner = engine._runner
        assert isinstance(runner.pool, PagedKvPool)
        if record:
            runner._graphs = DecodeGraphs(runner.pool, runner._attention, CallAgain())
    return chain


def ids(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 97, (count,), generator=generator).tolist()


def script(chain: Chain) -> torch.Tensor:
    """Chunks beside decode rows, sessions that join and end, steps of many shapes."""
    said = []
    texts = {number: ids(number, 60) for number in range(7)}
    at: dict[int, int] = {}

    def step(*wanted: tuple[int, int]) -> None:
        rows, tokens = [], []
        for number, count in wanted:
            start = at.setdefault(number, 0)
            rows.append(StepRow(session(number), start, count))
            tokens += texts[number][start : start + count]
            at[number] += count
        said.append(chain.logits(rows, tokens))

    chain.open(session(0), session(1))
    step((0, 9))
    step((0, 7), (1, 3))
    step((1, 4), (0, 1))
    chain.open(*(session(number) for number in range(2, 7)))
    for number in range(2, 7):
        step((number, 3 * number))
    for _ in range(6):
        step(*((number, 1) for number in range(7)))
    for engine, _ in chain.stages:
        engine.close(session(3))
    del at[3]
    chain.open(session(3))
    step((3, 20), (6, 1))
    for _ in range(5):
        step(*((number, 1) for number in (6, 3, 0)))
        step((1, 1))
    return torch.cat(said)


@pytest.mark.parametrize("name", KINDS)
def test_padded_and_replayed_rows_equal_rows_one_by_one(name: str, tmp_path: Path) -> None:
    make_model(name, tmp_path)
    wanted = script(Chain(tmp_path, STAGES))
    scale = max(1.0, float(wanted.abs().max()))
    assert (script(chain_of(tmp_path)) - wanted).abs().max() < 1e-5 * scale
    recorded = chain_of(tmp_path, record=True)
    assert (script(recorded) - wanted).abs().max() < 1e-5 * scale
    for engine, _ in recorded.stages:
        graphs = engine._runner._graphs
        assert graphs is not None
        assert graphs.replays > 0


def test_blocks_are_counted_reused_and_given_back(tmp_path: Path) -> None:
    make_model("Llama", tmp_path)
    chain = chain_of(tmp_path, stages=[((0, 6), (0, 6))])
    (engine, layers) = chain.stages[0]
    pool = engine._runner.pool
    assert isinstance(pool, PagedKvPool)
    engine._pool.capacity_token_layers = 4 * 32 * LAYERS
    seen: list[set[int]] = []
    for number in range(4):
        engine.open(session(number), layers, 30)
        seen.append(set(pool._sessions[session(number)].blocks.reshape(-1).tolist()))  # type: ignore[attr-defined]
    assert not set.union(*seen) & {0}
    assert sum(map(len, seen)) == len(set.union(*seen)) == 4 * 2 * LAYERS
    assert len(pool.keys) == 1 + 4 * 2 * LAYERS
    with pytest.raises(Busy):
        engine.open(session(4), layers, 1)
    engine.close(session(2))
    engine.open(session(4), layers, 17)
    assert set(pool._sessions[session(4)].blocks.reshape(-1).tolist()) == seen[2]  # type: ignore[attr-defined]
    for number in range(5):
        engine.close(session(number))
    assert engine.kv_used_token_layers == len(pool.keys) == 0


def test_a_paged_session_grows_is_copied_and_rolls_back(tmp_path: Path) -> None:
    make_model("Llama", tmp_path)
    plain = Chain(tmp_path, [((0, 6), (0, 6))])
    plain.open(session(1), kv_tokens=64)
    tokens = ids(3, 40)
    wanted = plain.logits([row(1, 0, 40)], tokens)
    chain = chain_of(tmp_path, stages=[((0, 6), (0, 6))])
    chain.open(session(1), kv_tokens=20)
    chain.logits([row(1, 0, 20)], [*tokens[:18], 5, 6])
    chain.open(session(1), kv_tokens=64)
    grown = chain.logits([row(1, 18, 22)], tokens[18:])
    assert torch.allclose(grown, wanted[18:], atol=1e-5)
    engine, layers = chain.stages[0]
    engine.open(session(2), layers, 64, KvCopy(session(1), 21))
    copied = chain.logits([row(2, 21, 19)], tokens[21:])
    assert torch.allclose(copied, wanted[21:], atol=1e-5)


def test_what_cannot_be_recorded_runs_as_it_is(tmp_path: Path) -> None:
    make_model("Llama", tmp_path)
    chain = chain_of(tmp_path, record=True, stages=[((0, 6), (0, 6))])
    graphs = chain.stages[0][0]._runner._graphs
    assert graphs is not None
    tries = []

    class Cannot:
        def record(self, _work):  # type: ignore[no-untyped-def]
            tries.append(1)
            raise RuntimeError("operation not permitted when stream is capturing")

    graphs._recorder = Cannot()
    plain = Chain(tmp_path, [((0, 6), (0, 6))])
    for each in (chain, plain):
        each.open(session(1))
    for position in range(4):
        got, wanted = (c.logits([row(1, position, 1)], [7 + position]) for c in (chain, plain))
        assert torch.allclose(got, wanted, atol=1e-5)
    assert tries == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here")
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "DeepseekV2"])
def test_recorded_graphs_on_a_gpu_equal_the_cpu(name: str, tmp_path: Path) -> None:
    make_model(name, tmp_path)
    wanted = script(Chain(tmp_path, STAGES))
    got = script(Chain(tmp_path, STAGES, EngineConfig(1 << 30, device="cuda", graphs=True)))
    assert (got.cpu() - wanted).abs().max() < 1e-3 * max(1.0, float(wanted.abs().max()))
