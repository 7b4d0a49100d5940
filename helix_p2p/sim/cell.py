"""What the simulated members of one cell share: its id, its rules, and what is found out once.

A simulated swarm is one process, so what every member would compute alike is computed by the first
who asks: the validator's verdict on a plan, and who holds what by it.

Always: a plan is judged by the rules of the cell that it is for.
"""

from helix_p2p.cluster.model import ModelSpec
from helix_p2p.errors import HelixError
from helix_p2p.planning.plan import EdgeFlow, Placement, SignedPlan
from helix_p2p.planning.validate import PlanRules, validate
from helix_p2p.types import LayerRange, PeerId


class Cell:
    """See the module's description.

    Args:
        swarm: The cell's id, which is a swarm's to all its members.
        model: What is served.
    """

    def __init__(self, swarm: str, model: ModelSpec) -> None:
        self.swarm = swarm
        self.peers: list[PeerId] = []
        self.placement: Placement | None = None
        """Of the plan that was adopted last."""
        self._rules = PlanRules(model=model, swarm=swarm)
        self._verdicts: dict[bytes, HelixError | None] = {}
        self._ranges: tuple[Placement, dict[PeerId, LayerRange]] | None = None

    @property
    def flows(self) -> tuple[EdgeFlow, ...]:
        """Of the same plan."""
        return self.placement.flows if self.placement is not None else ()

    def validate(self, signed: SignedPlan, now_unix_s: float) -> None:
        """The production rules; their verdict on one plan is the same for all, so asked once.

        Raises:
            HelixError: What is wrong with it.
        """
        if signed.hash not in self._verdicts:
            try:
                validate(signed, self._rules, now_unix_s)
                self._verdicts[signed.hash] = None
            except HelixError as error:
                self._verdicts[signed.hash] = error
        verdict = self._verdicts[signed.hash]
        if verdict is not None:
            raise verdict

    def ranges_of(self, placement: Placement) -> dict[PeerId, LayerRange]:
        """By peer; the same for all who adopt it."""
        if self._ranges is None or self._ranges[0] is not placement:
            self._ranges = placement, {a.peer: a.layers for a in placement.assignments}
        return self._ranges[1]
