"""Real engines: a witness times the inner layers of another peer, and finds who boasts."""

import time
from pathlib import Path

import pytest
import torch

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.membership.messages import Probe
from helix_p2p.net.probe import answer_probe
from helix_p2p.net.requests import Requests, serve_requests
from helix_p2p.node.pacing import PaceMeter
from helix_p2p.node.rechecking import TraceService
from helix_p2p.types import LayerRange, PeerId
from tests.integration.serving.test_fixed_ranges import LAYERS, Pipeline
from tests.unit.engine.tiny import make_model
from tests.unit.net.members import member_of


def announced(layers: LayerRange, step_s: float) -> Announcement:
    speed = SpeedProfile(((16, step_s),), ((1, step_s),))
    return Announcement(1, 1, 0.0, "ab", PeerState.SERVING, 10**9, speed, layers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("tiny")
    make_model("Llama", made, num_hidden_layers=LAYERS)
    return made


async def test_boaster_is_found_and_a_modest_peer_believed(folder: Path) -> None:
    made = Pipeline(folder, {"a": (0, 2), "b": (1, LAYERS), "c": (0, LAYERS)})
    await made.start()
    try:
        for me, member in made.members.items():
            service = TraceService(member.serving, time.monotonic)

            async def answer(channel, message, payload, service=service):
                if isinstance(message, Probe):
                    return answer_probe(message, payload)
                return await service.answer(channel.remote, message, payload)

            await serve_requests(made.network._transports[me], member_of("swarm"), answer)
        requests = Requests(made.network._transports[PeerId("a")], member_of("swarm"))
        said = {
            PeerId("a"): announced(LayerRange(0, 2), 1e-3),
            PeerId("b"): announced(LayerRange(1, LAYERS), 1e-6),
            PeerId("c"): announced(LayerRange(0, LAYERS), 10.0),
        }
        d_model = made.members[PeerId("a")].serving.spec.d_model
        # A clock that runs fast makes tiny layers as slow as real ones.
        meter = PaceMeter(
            PeerId("a"), requests, lambda: said, LAYERS, d_model, lambda: 50 * time.perf_counter()
        )
        found = {pace.peer: pace.slower for pace in await meter.round()}
        await requests.close()
    finally:
        await made.stop()
    assert found[PeerId("b")] > 10.0
    assert found[PeerId("c")] == 1.0
