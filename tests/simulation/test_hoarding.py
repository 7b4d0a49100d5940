"""An entry peer that hoards KV room: honest clients keep nearly all of their share."""

import random

import pytest

from helix_p2p.session.effects import Send
from helix_p2p.session.messages import (
    FinishReason,
    Generate,
    LastStage,
    Open,
    Opened,
    Sampling,
)
from helix_p2p.types import LayerRange, PeerId, SessionId
from tests.simulation.serving import VOCAB, Swarm, expected_answer

LAYERS = 12
SHARE = 4
HOG = PeerId("hog")


class Hog:
    """Opens sessions on one stage, again and again where it is refused, and leaves them idle."""

    def __init__(self, swarm: Swarm, stage: str) -> None:
        self.swarm, self.stage, self.number = swarm, PeerId(stage), 0
        swarm.peers[HOG].entry.on_opened = self._on_opened  # it does not run our code
        swarm.peers[HOG].entry.on_stage_failed = lambda *_: self._again()
        self.opened = 0
        for _ in range(40):
            self.open()

    def open(self) -> None:
        self.number += 1
        name = SessionId(b"hog!" + self.number.to_bytes(12, "big"))
        message = Open(name, 1, 1, LayerRange(6, 12), HOG, HOG, None, 60, LastStage(Sampling()))
        self.swarm.peers[HOG].do([Send(self.stage, message)])

    def _on_opened(self, _sender, message: Opened, _now_s: float):
        if message.failure is None:
            self.opened += 1
            return []
        return self._again()

    def _again(self):
        self.swarm.at(0.05, self.open)
        return []


@pytest.mark.parametrize("seed", range(3))
def test_honest_entry_peer_gets_its_share_of_a_stage_that_another_one_hoards(seed):
    room = 64 * 6 * 2 * SHARE
    held = {"a": (0, 6), "hog": (0, 6), "b": (6, 12)}

    def served(*, with_hog: bool) -> int:
        swarm = Swarm(held, LAYERS, seed, kv=room)
        if with_hog:
            hog = Hog(swarm, "b")
            swarm.run(1.0)
            assert hog.opened == 2 * SHARE, "it has all the room there is"
        rng = random.Random(seed)
        asked = []
        for number in range(60):
            prompt = tuple(rng.randrange(VOCAB) for _ in range(20))
            asked.append(Generate(SessionId(number.to_bytes(16, "big")), prompt, 40))
            swarm.at(number / 2, lambda each=asked[-1]: swarm.generate("a", each))
        swarm.run(120)
        for each in asked:
            if swarm.ended.get(each.session) is FinishReason.LENGTH:
                wanted = expected_answer(each.prompt, 40, LAYERS)
                assert swarm.delivered[each.session] == wanted
        ledger = swarm.peers["b"].ledger
        assert 0 <= ledger.used_token_layers <= room
        return sum(reason is FinishReason.LENGTH for reason in swarm.ended.values())

    assert served(with_hog=False) == 60
    assert served(with_hog=True) >= 0.8 * 60
