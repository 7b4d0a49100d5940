"""Reads a scenario file: what swarm, which placements, how they are asked, what goes wrong.

TOML with people's units, read as strictly as a cluster file; docs/simulator.md explains every key.

Always: whatever is wrong ends as one `ConfigError` with file, line, field and the nearest right
name; a peer that is named exists; every duration carries its unit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from helix_p2p.cluster.file import read_cluster
from helix_p2p.cluster.reference import CLUSTERS, MODELS, reference_snapshot
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.cluster.strict_toml import Table, open_toml, read_text
from helix_p2p.cluster.units import SECONDS
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.planner import PlanOptions
from helix_p2p.planning.planner import plan as plan_swarm
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.helix.setup import (
    HelixSetup,
    planned_setup,
    published_setup,
    reference_runs,
    snapshot_setup,
)
from helix_p2p.types import PeerId

OURS = "helix-p2p"
PUBLISHED = "published:"
FILE_LIMIT_BYTES = 1024 * 1024


class Mode(StrEnum):
    """Whose serving rules."""

    HELIX = "helix"
    NATIVE = "native"


@dataclass(frozen=True, slots=True)
class ClusterChoice:
    """One of the paper's clusters with a model, or a cluster file.

    Attributes:
        reference: Name of a reference cluster, None for a file.
        model: Of a reference cluster.
        path: Of the file.
    """

    reference: str | None
    model: str
    path: Path | None

    def snapshot(self) -> Snapshot:
        """The swarm as the planner sees it."""
        if self.reference is not None:
            return reference_snapshot(self.reference, self.model)
        assert self.path is not None, "a cluster is a reference or a file"
        return read_cluster(self.path)


@dataclass(frozen=True, slots=True)
class Setting:
    """How the swarm is asked.

    Attributes:
        name: How reports call it.
        online: Arrivals at a rate, else a closed loop.
        poisson: Memoryless arrivals instead of the trace's.
        in_flight: Offline: requests at the start, kept up where there is no admission; None for as
            many as suit the mode.
        arrival_tokens_per_s: Online.
        equal_admission: The same admission for every scheduler; else the paper's own.
    """

    name: str
    online: bool = False
    poisson: bool = False
    in_flight: int | None = None
    arrival_tokens_per_s: float = 0.0
    equal_admission: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, in native mode.

    Attributes:
        kind: `crash`, `hang`, `slow` or `partition`.
        at_s: When, since requests began.
        peers: Whom; for a partition, the peers of the other side.
        for_s: How long; a crashed peer comes back after it, None is for good.
        factor: How much slower a slow peer is.
    """

    kind: str
    at_s: float
    peers: tuple[PeerId, ...]
    for_s: float | None
    factor: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario file."""

    name: str
    mode: Mode
    cluster: ClusterChoice
    placements: tuple[str, ...]
    schedulers: tuple[Scheduler, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    warm_up_s: float
    duration_s: float
    loss: float
    faults: tuple[Fault, ...]


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ConfigError: It cannot be read, or something in it is wrong.
    """
    return parse_scenario(read_text(path, FILE_LIMIT_BYTES), str(path), path.parent)


def parse_scenario(text: str, source: str, folder: Path) -> Scenario:
    """Turn the text of a scenario file into a scenario.

    Args:
        text: TOML.
        source: How errors call it.
        folder: Which relative paths start from.

    Raises:
        ConfigError: Something in it is wrong.
    """
    root = open_toml(text, source)
    mode = Mode(_one_of(root, "mode", list(Mode), default=Mode.HELIX))
    cluster = _cluster(root, folder)
    known = known_placements(cluster)
    scenario = Scenario(
        name=root.text("name"),
        mode=mode,
        cluster=cluster,
        placements=_names(root, "placements", known, [OURS]),
        schedulers=tuple(
            Scheduler(name)
            for name in _names(root, "schedulers", list(Scheduler), [Scheduler.MAX_FLOW])
        ),
        settings=tuple(_setting(entry) for entry in root.tables("settings", required=True)),
        seeds=tuple(range(root.whole("seeds", default=1, most=1000))),
        warm_up_s=root.quantity("warm_up", SECONDS) or 60.0,
        duration_s=root.quantity("duration", SECONDS) or 600.0,
        loss=_share(root, "loss"),
        faults=tuple(_fault(entry, cluster) for entry in root.tables("faults")),
    )
    if scenario.faults and mode is not Mode.NATIVE:
        root.fail("faults", 'happen in native mode only; set mode = "native"')
    if mode is Mode.NATIVE and root.take("schedulers", (list,)) is not None:
        root.fail("schedulers", "are Helix mode's; native mode routes as our peers do")
    names = [setting.name for setting in scenario.settings]
    if len(set(names)) < len(names):
        root.fail("settings", "two settings have the same name")
    root.finish()
    return scenario


def known_placements(cluster: ClusterChoice) -> list[str]:
    """What `placements` may name for this cluster."""
    names = [OURS, *BASELINES]
    if cluster.reference is not None:
        start = f"{cluster.reference}/{cluster.model}/"
        cases = [case for case in reference_runs()["placements"] if case.startswith(start)]
        names += [PUBLISHED + case.removeprefix(start) for case in cases]
    return names


def setup_of(cluster: ClusterChoice, placement: str) -> HelixSetup:
    """Plan, or look up, one placement of a scenario.

    Raises:
        ConfigError: No such placement.
        SwarmTooSmall: The peers cannot hold the model.
        SolverError: A baseline's solver found nothing.
    """
    if placement.startswith(PUBLISHED):
        name = placement.removeprefix(PUBLISHED)
        return published_setup(f"{cluster.reference}/{cluster.model}/{name}")
    snapshot, options = cluster.snapshot(), PlanOptions()
    if placement == OURS:
        found = plan_swarm(snapshot, options)
    else:
        found = BASELINES[placement](snapshot, options, None, None)
    if cluster.reference is not None:
        return planned_setup(cluster.reference, cluster.model, found)
    return snapshot_setup(snapshot, found)


# ── tables ─────────────────────────────────────────────────────────────────────────────────────


def _cluster(root: Table, folder: Path) -> ClusterChoice:
    data: Mapping[str, Any] = root.take("cluster", (dict,), required=True)
    table = root.inner("cluster", data)
    reference = table.take("reference", (str,))
    path = table.take("file", (str,))
    if (reference is None) == (path is None):
        table.fail(None, "needs either `reference` or `file`")
    if reference is not None:
        if reference not in CLUSTERS:
            table.fail("reference", f"{reference!r} is not known", near=(reference, CLUSTERS))
        model = _one_of(table, "model", MODELS, default="70b")
        table.finish()
        return ClusterChoice(reference, model, None)
    table.finish()
    found = folder / str(path)
    try:
        there = found.is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        table.fail("file", f"there is no {found}")
    return ClusterChoice(None, "", found)


def _setting(table: Table) -> Setting:
    load = _one_of(table, "load", ("offline", "online", "poisson"))
    online = load != "offline"
    admission = _one_of(table, "admission", ("equal", "paper"), default="equal")
    rate = table.take("arrival_tokens_per_s", (int, float), required=online)
    if rate is not None and not online:
        table.fail("arrival_tokens_per_s", "belongs to online load only")
    if online and table.take("in_flight", (int,)) is not None:
        table.fail("in_flight", "belongs to offline load only")
    if admission == "paper" and not online and table.take("in_flight", (int,)) is None:
        table.fail("in_flight", "is needed where nothing is admitted by memory")
    setting = Setting(
        name=table.text("name", default=load),
        online=online,
        poisson=load == "poisson",
        in_flight=(None if online else table.whole("in_flight", default=0, most=100_000) or None),
        arrival_tokens_per_s=table.positive("arrival_tokens_per_s", rate) if online else 0.0,
        equal_admission=admission == "equal",
    )
    table.finish()
    return setting


def _fault(table: Table, cluster: ClusterChoice) -> Fault:
    kind = _one_of(table, "kind", ("crash", "hang", "slow", "partition"))
    at_s = table.quantity("at", SECONDS, required=True)
    lasts = kind in {"hang", "partition"}
    for_s = table.quantity("for", SECONDS, required=lasts)
    factor = table.take("factor", (int, float), required=kind == "slow")
    if factor is not None and kind != "slow":
        table.fail("factor", "belongs to a slow peer only")
    peers = [profile.peer for profile in cluster.snapshot().peers]
    named = _names(table, "peers", peers, None)
    table.finish()
    return Fault(
        kind,
        at_s or 0.0,
        tuple(PeerId(name) for name in named),
        for_s,
        1.0 if factor is None else table.positive("factor", factor),
    )


def _one_of(table: Table, key: str, known: Iterable[str], *, default: str | None = None) -> str:
    value, names = table.text(key, default=default), [str(name) for name in known]
    if value not in names:
        table.fail(key, f"{value!r} is not known", near=(value, names))
    return value


def _names(
    table: Table, key: str, known: Iterable[str], default: list[str] | None
) -> tuple[str, ...]:
    values = table.take(key, (list,), required=default is None)
    if values is None:
        return tuple(default or ())
    names = {str(name) for name in known}
    for value in values:
        if not isinstance(value, str):
            table.fail(key, f"{value!r} is not text")
        if value not in names:
            table.fail(key, f"{value!r} is not known", near=(value, names))
    if not values or len(set(values)) < len(values):
        table.fail(key, "needs at least one name, and each once")
    return tuple(values)


def _share(table: Table, key: str) -> float:
    value = table.take(key, (int, float))
    if value is None:
        return 0.0
    if not 0 <= value < 0.9:
        table.fail(key, f"{value} is not a share from 0 to 0.9")
    return float(value)
