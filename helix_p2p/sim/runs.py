"""One run of a scenario, and many of them side by side.

Runs share nothing, so they go to as many processes as wanted through joblib, or to a Dask cluster
where its address is given.

Always: the same job gives the same result wherever it runs (but for its CPU time); a result is
plain data.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from joblib import Parallel, delayed, parallel_config

from helix_p2p.errors import ConfigError
from helix_p2p.sim.collector import seldom_collected
from helix_p2p.sim.helix.figures import EdgeLoad, Figures, Sample, percentiles
from helix_p2p.sim.helix.replay import HelixRun, replay
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.helix.setup import HelixSetup
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm
from helix_p2p.sim.native.workload import Workload, room_for
from helix_p2p.sim.scenario import Fault, Mode, Scenario, Setting
from helix_p2p.types import LayerRange, PeerId

CDF_POINTS = 100
FIRST_FEED = 20
OUR_SERVING = "native serving"

Watch = Callable[[float, float, Figures], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    Attributes:
        placement: Its name.
        scheduler: Helix mode's.
        mode: Whose serving rules.
        setting: Load and admission.
        seed: Of requests and choices.
    """

    placement: str
    scheduler: Scheduler
    mode: Mode
    setting: Setting
    seed: int

    @property
    def served_by(self) -> str:
        """The scheduler's name, or our own serving."""
        return OUR_SERVING if self.mode is Mode.NATIVE else str(self.scheduler)


@dataclass(frozen=True, slots=True)
class Held:
    """A peer's place in a placement."""

    peer: PeerId
    layers: LayerRange
    kv_layer_tokens: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave; latencies in seconds, percentiles 5, 25, 50, 75, 95, CDFs per cent."""

    placement: str
    served_by: str
    setting: str
    seed: int
    decode_tokens_per_s: float
    mean_prompt_s: float
    mean_decode_s: float
    prompt_percentiles_s: tuple[float, ...]
    decode_percentiles_s: tuple[float, ...]
    prompt_cdf_s: tuple[float, ...]
    decode_cdf_s: tuple[float, ...]
    finished: int
    dropped: int
    refused: int
    longest_queue: int
    kv_peak_share: float
    max_flow_tokens_per_s: float
    edges: tuple[EdgeLoad, ...]
    samples: tuple[Sample, ...]
    held: tuple[Held, ...]
    layers: int
    events: int
    cpu_s: float
    trace_hash: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which knows no nan: null where nothing was measured."""
        kept: dict[str, Any] = _without_nan(asdict(self))
        return kept


def jobs_of(scenario: Scenario, *, with_native: bool = False) -> list[Job]:
    """The full cross product, seed by seed, so that what is done first is a whole comparison.

    Args:
        scenario: What is compared.
        with_native: Whether every placement is to serve natively as well. Native serving has an
            admission of its own, and runs once per load.
    """
    served = [(scheduler, scenario.mode) for scheduler in scenario.schedulers]
    if with_native and scenario.mode is Mode.HELIX:
        served.append((Scheduler.MAX_FLOW, Mode.NATIVE))
    return [
        Job(placement, scheduler, mode, setting, seed)
        for seed, placement, (scheduler, mode), setting in product(
            scenario.seeds, scenario.placements, served, scenario.settings
        )
        if setting.equal_admission or mode is scenario.mode
    ]


def run_job(
    scenario: Scenario, setup: HelixSetup, job: Job, watch: Watch | None = None
) -> RunResult:
    """Run one job of a scenario over its placement."""
    setting = job.setting
    run = HelixRun(
        scheduler=job.scheduler,
        online=setting.online,
        poisson=setting.poisson,
        feed=setting.in_flight or _suitable_feed(setup, job.mode),
        arrival_tokens_per_s=setting.arrival_tokens_per_s,
        seed=job.seed,
        warm_up_s=scenario.warm_up_s,
        duration_s=scenario.duration_s,
        equal_admission=setting.equal_admission,
        watch=watch,
    )
    began_s = time.process_time()
    with seldom_collected():
        figures = _serve(scenario, setup, run) if job.mode is Mode.NATIVE else replay(setup, run)
    return _result(setup, job, figures, time.process_time() - began_s)


def run_all(
    scenario: Scenario,
    setups: dict[str, HelixSetup],
    jobs: Sequence[Job],
    *,
    processes: int = 1,
    dask_address: str | None = None,
) -> Iterator[RunResult]:
    """Run jobs side by side; results come as they are done, in the order of the jobs.

    Args:
        scenario: Of all jobs.
        setups: By placement.
        jobs: From `jobs_of`.
        processes: On this machine; ignored where a Dask cluster is given.
        dask_address: Of a Dask scheduler, e.g. `tcp://host:8786`.

    Raises:
        ConfigError: Dask is not installed, or its scheduler is not to be reached.
    """
    work = (delayed(run_job)(scenario, setups[job.placement], job) for job in jobs)
    if dask_address is None:
        yield from Parallel(n_jobs=processes, return_as="generator")(work)
        return
    client = _dask_client(dask_address)
    try:
        with parallel_config(backend="dask"):
            yield from Parallel()(work)
    finally:
        client.close()


def _dask_client(address: str) -> Any:
    try:
        from dask.distributed import Client
    except ImportError as error:
        raise ConfigError(
            "a Dask cluster is wanted, but Dask is not installed",
            hint="pip install 'helix-p2p[dask]'",
        ) from error
    connect: Any = Client
    try:
        return connect(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address}: {error}") from error


def _suitable_feed(setup: HelixSetup, mode: Mode) -> int:
    """Helix mode feeds itself from a few; our clients keep the caches full."""
    return room_for(setup) if mode is Mode.NATIVE else FIRST_FEED


def _serve(scenario: Scenario, setup: HelixSetup, run: HelixRun) -> Figures:
    swarm = ServingSwarm(setup, ServingRules(loss=scenario.loss), run.seed)
    work = Workload(swarm, run)
    for fault in scenario.faults:
        _arrange(swarm, fault)
    work.start()
    swarm.time.run(run.warm_up_s + run.duration_s)
    return work.figures()


def _arrange(swarm: ServingSwarm, fault: Fault) -> None:
    time_, at_s = swarm.time, fault.at_s
    present = [peer for peer in fault.peers if peer in swarm.peers]
    if fault.kind == "partition":
        time_.at(at_s, swarm.partition, dict.fromkeys(present, 1), fault.for_s or 0.0)
        return
    for peer in present:
        match fault.kind:
            case "crash":
                time_.at(at_s, swarm.crash, peer)
                if fault.for_s is not None:
                    time_.at(at_s + fault.for_s, swarm.restart, peer)
            case "hang":
                time_.at(at_s, swarm.hang, peer, fault.for_s or 0.0)
            case "slow":
                time_.at(at_s, swarm.slow, peer, fault.factor)
                if fault.for_s is not None:
                    time_.at(at_s + fault.for_s, swarm.slow, peer, 1.0)


def _result(setup: HelixSetup, job: Job, figures: Figures, cpu_s: float) -> RunResult:
    return RunResult(
        placement=job.placement,
        served_by=job.served_by,
        setting=job.setting.name,
        seed=job.seed,
        decode_tokens_per_s=figures.decode_tokens_per_s,
        mean_prompt_s=figures.mean_prompt_s,
        mean_decode_s=figures.mean_decode_s,
        prompt_percentiles_s=percentiles(figures.prompt_s),
        decode_percentiles_s=percentiles(figures.decode_s),
        prompt_cdf_s=_cdf(figures.prompt_s),
        decode_cdf_s=_cdf(figures.decode_s),
        finished=figures.finished,
        dropped=figures.dropped,
        refused=figures.refused,
        longest_queue=figures.longest_queue,
        kv_peak_share=max(figures.kv_peak_share.values(), default=0.0),
        max_flow_tokens_per_s=setup.max_flow_tokens_per_s,
        edges=figures.edges,
        samples=tuple(figures.samples),
        held=tuple(Held(s.peer, s.layers, s.kv_layer_tokens) for s in setup.stages),
        layers=setup.layers,
        events=figures.events,
        cpu_s=cpu_s,
        trace_hash=figures.trace_hash(),
    )


def _cdf(values: Sequence[float]) -> tuple[float, ...]:
    """Value at each per cent, 0 to 100; empty of nothing."""
    if not values:
        return ()
    ordered = sorted(values)
    last = len(ordered) - 1
    return tuple(ordered[round(last * point / CDF_POINTS)] for point in range(CDF_POINTS + 1))


def _without_nan(value: Any) -> Any:
    match value:
        case float() if value != value:
            return None
        case dict():
            return {key: _without_nan(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_nan(inner) for inner in value]
        case _:
            return value
