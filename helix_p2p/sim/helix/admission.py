"""Expected KV use, as the paper's scheduler keeps it: what admitted queries will need.

Each admitted query is charged its prompt plus the mean answer on every layer of its route; a stage
takes no more once a further query would push it over the mark.

Source: the Helix artifact's semantics (issue notes of its 2024 release): mean answer 240 tokens.
"""

from dataclasses import dataclass

from helix_p2p.routing.admission import BLOCK_TOKENS
from helix_p2p.sim.helix.parts import Query, Stage, Way

MEAN_ANSWER_TOKENS = 240


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """How careful admission is.

    Attributes:
        high_water: Share of a stage's KV that expectation may fill.
        answer_share: Of the mean answer that is expected; None where each query says how long its
            answer may be, and room for all of it is reserved in whole blocks.
        feed_below: Offline: a new query starts while the fullest layer is at most this full.
    """

    high_water: float
    answer_share: float | None
    feed_below: float = 0.8


OFFLINE = AdmissionRule(high_water=0.85, answer_share=1.0)
ONLINE = AdmissionRule(high_water=0.9, answer_share=0.6)
RESERVING = AdmissionRule(high_water=1.0, answer_share=None)
"""As our stages admit (`routing.admission`)."""


class ExpectedKv:
    """The ledger of expectations over all stages."""

    def __init__(self, stages: list[Stage], layers: int, rule: AdmissionRule) -> None:
        self._stages = stages
        self._layers = layers
        self._rule = rule

    def expected_tokens(self, query: Query) -> int:
        """What a query is charged per layer."""
        if self._rule.answer_share is None:
            return -(-(query.input_tokens + query.output_tokens) // BLOCK_TOKENS) * BLOCK_TOKENS
        return int(query.input_tokens + MEAN_ANSWER_TOKENS * self._rule.answer_share)

    def fits(self, stage: Stage, query: Query) -> bool:
        """Whether the stage may take one more, as if it ran all its layers."""
        room = stage.setup.kv_layer_tokens
        after = room - stage.expected_kv - self.expected_tokens(query) * stage.layers
        return after >= (1 - self._rule.high_water) * room

    def add(self, query: Query, sign: int = 1) -> None:
        """Charge a query on its whole route; `sign` -1 takes it back."""
        tokens = sign * self.expected_tokens(query)
        done = 0
        for way in query.route[:-1]:
            stage = _stage_of(way)
            stage.expected_kv += tokens * (stage.end - done)
            done = stage.end

    def fullest_layer(self) -> float:
        """Share of KV in use on the layer with the least left, replicas taken together."""
        free = [0.0] * self._layers
        room = [0.0] * self._layers
        for stage in self._stages:
            all_of_it = stage.setup.kv_layer_tokens / stage.layers
            left = (stage.setup.kv_layer_tokens - stage.expected_kv) / stage.layers
            for layer in range(stage.start, stage.end):
                free[layer] += left
                room[layer] += all_of_it
        return max(1 - f / r if r > 0 else 1.0 for f, r in zip(free, room, strict=True))

    @property
    def feeds(self) -> bool:
        """Offline: whether another query may start."""
        return self.fullest_layer() <= self._rule.feed_below


def _stage_of(way: Way) -> Stage:
    assert way.target is not None, "a route's last way alone leads to the client"
    return way.target
