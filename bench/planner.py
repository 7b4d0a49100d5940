"""What the planner promises, measured beside the planners it is compared with, in the same run.

The Helix paper's clusters under the artifact's own T(k), seeded home swarms, churn, regions, random
small swarms against networkx and HiGHS, and bad input. `--quick` takes about a minute.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median

from bench.measuring import flow_options, timed, tokens
from bench.planner_checks import bad_input, small_swarms
from bench.report import Line, Report
from bench.swarms import churned, home_swarm
from helix_p2p.cluster.reference import published_placements, reference_snapshot
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.errors import HelixError, SwarmTooSmall
from helix_p2p.planning.baselines import BASELINES
from helix_p2p.planning.baselines.petals import petals_layout
from helix_p2p.planning.capacity import MTOKENS, capacities_of
from helix_p2p.planning.coverage import layout_of, value_of
from helix_p2p.planning.estimate import estimate
from helix_p2p.planning.flow import route_flow
from helix_p2p.planning.plan import Assignment, Placement
from helix_p2p.planning.planner import Objective, PlanOptions, plan
from helix_p2p.planning.regions import region_splits
from helix_p2p.planning.repair import repair
from helix_p2p.planning.replan import migration

GIB = 2**30

REPAIRS = ((24, 0.05), (200, 0.3), (1000, 1.0))
"""Peers, and the CPU seconds in which a loss among them is to be repaired."""
CHANGES = 9
SEARCHED_PEERS = 64
"""Up to this many peers each repair is compared with a search from nothing."""


def paper_clusters(report: Report, *, quick: bool) -> None:
    """Our planner on the paper's clusters, with ratios to the baselines of the same run."""
    # cluster, model, least flow, seconds for it, largest gap, seconds for that
    promises = [
        ("single24", "70b", 2045.6, 1.0, 0.0, 1.0),
        ("single24", "30b", 1500.0, 5.0, 0.02, 60.0),
        ("geo24", "70b", 1390.0, 12.0 if quick else 30.0, None, 30.0),
        ("geo24", "30b", None, 30.0, None, 30.0),
        ("high42", "70b", None, 10.0, None, 10.0),
    ]
    for cluster, model, least, limit_s, gap, gap_limit_s in promises[: 3 if quick else None]:
        name = f"{cluster} {model}"
        with report.guarded("clusters", name):
            snapshot = reference_snapshot(cluster, model)
            others = _baseline_flows(snapshot, 2.0 if quick else 60.0)
            made, took_s = timed(lambda: plan(snapshot, flow_options(limit_s)))  # noqa: B023
            flow = tokens(made)
            ratios = ", ".join(f"{flow / v:.2f} × {k}" for k, v in others.items() if v)
            published = published_placements(cluster, model).get("ilp")
            if published is not None:
                ratios += f", {flow / published.max_flow_tokens_per_s:.2f} × published Helix"
            report.add(
                Line(
                    "clusters",
                    f"{name}: flow",
                    f"{flow:,.1f} tokens/s in {took_s:.2f} s; {ratios}",
                    "" if least is None else f"≥ {least:,} in ≤ {limit_s:.0f} s",
                    None if least is None else flow >= least - 0.05 and took_s <= limit_s + 0.5,
                    {"flow": flow, "seconds": took_s, **others},
                )
            )
            if gap is None:
                continue
            if made.gap > gap and gap_limit_s > limit_s:
                limit = 15.0 if quick else gap_limit_s
                made, took_s = timed(lambda: plan(snapshot, flow_options(limit)))  # noqa: B023
            report.add(
                Line(
                    "clusters",
                    f"{name}: gap",
                    f"{made.gap:.2%} in {took_s:.2f} s, flow {tokens(made):,.1f}",
                    f"≤ {gap:.0%} in ≤ {gap_limit_s:.0f} s",
                    made.gap <= gap + 1e-9 and took_s <= gap_limit_s + 0.5,
                    {"gap": made.gap, "seconds": took_s, "flow": tokens(made)},
                )
            )


def _baseline_flows(snapshot: Snapshot, milp_s: float) -> dict[str, float]:
    flows = {}
    for name in ("petals", "swarm", "separate", "helix"):
        try:
            flows[name] = tokens(BASELINES[name](snapshot, flow_options(milp_s), None, None))
        except HelixError:
            flows[name] = 0.0
    return flows


def published_flows(report: Report) -> None:
    """The baselines against what the artifact published."""

    def line(name: str, flow: float, target: float) -> None:
        holds = abs(flow - target) < 0.006
        report.add(Line("published", name, f"{flow:.2f}", f"{target:.2f}", holds, {"flow": flow}))

    for cluster, model, planner, target in (
        ("single24", "70b", "petals", 952.11),
        ("single24", "70b", "swarm", 757.85),
        ("single24", "30b", "petals", 898.57),
        ("single24", "30b", "swarm", 889.83),
        ("geo24", "70b", "petals", 952.11),
        ("geo24", "70b", "swarm", 616.38),
    ):
        snapshot = reference_snapshot(cluster, model)
        capacities = capacities_of(snapshot)
        if planner == "petals":
            order = published_placements(cluster, model)["petals"].join_order
            layout = petals_layout(snapshot, capacities, order)
            flow = route_flow(snapshot, capacities, layout).value_mtokens_per_s / MTOKENS
        else:
            flow = tokens(BASELINES["swarm"](snapshot, PlanOptions(), None, None))
        line(f"{cluster} {model} {planner}", flow, target)
    for cluster, target in (("single24", 1289.56), ("geo24", 1212.18)):
        snapshot = reference_snapshot(cluster, "70b")
        ranges = published_placements(cluster, "70b")["ilp"].ranges
        capacities = capacities_of(snapshot)
        held = layout_of(capacities, [Assignment(peer, layers) for peer, layers in ranges.items()])
        value = route_flow(snapshot, capacities, held).value_mtokens_per_s / MTOKENS
        line(f"{cluster} 70b Helix's own placement", value, target)


def home_swarms(report: Report, *, quick: bool) -> None:
    """Share of the bound, and ratios to Petals' rule and the even split."""
    cases = [(30, 0.95, 10.0), (200, 0.97, 10.0), (1000, 0.98, 10.0)]
    if quick:
        cases = [(30, 0.95, 5.0), (200, 0.97, 8.0)]
    for peers, share, limit_s in cases:
        with report.guarded("home", f"{peers} peers"):
            # In a process of its own, so that its peak memory is its own.
            with get_context("spawn").Pool(1) as pool:
                said = pool.apply(_home_case, (peers, 1, limit_s))
            figures = {"flow": said["flow"], "bound": said["bound"], "seconds": said["seconds"]}
            of_bound = said["flow"] / said["bound"]
            report.add(
                Line(
                    "home",
                    f"{peers} peers: share of the bound",
                    f"{of_bound:.2%} in {said['seconds']:.1f} s ({said['flow']:,.0f} tokens/s, "
                    f"{said['stages']:.1f} stages)",
                    f"≥ {share:.0%} in {limit_s:.0f} s",
                    of_bound >= share and said["seconds"] <= limit_s * 1.1 + 1,
                    {"share": of_bound, **figures},
                )
            )
            for other, what, least in (
                ("longest", "Petals' rule, the longest range that fits", 1.9),
                ("petals", "the same with Petals' KV reserve", None),
                ("swarm", "the even split", 1.25),
            ):
                ratio = said["flow"] / said[other] if said[other] else float("inf")
                most = said["bound"] / said[other] if said[other] else float("inf")
                report.add(
                    Line(
                        "home",
                        f"{peers} peers: against {what}",
                        f"{ratio:.2f} × (the bound allows {most:.2f})",
                        "" if least is None else f"≥ {least} ×",
                        None if least is None else ratio >= least,
                        {"ratio": ratio, "other": said[other]},
                    )
                )
            if peers == 1000:
                report.add(
                    Line(
                        "home",
                        f"{peers} peers: peak memory",
                        f"{said['rss'] / GIB:.2f} GiB",
                        "< 1 GiB",
                        said["rss"] < GIB,
                        {"bytes": said["rss"]},
                    )
                )


def _home_case(peers: int, seed: int, limit_s: float) -> dict[str, float]:
    snapshot = home_swarm(peers, seed)
    made, seconds = timed(lambda: plan(snapshot, flow_options(limit_s)))
    guess = estimate(snapshot, made.assignments, made.flows)
    rss = getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    said = {
        "flow": tokens(made),
        "bound": made.bound_mtokens_per_s / MTOKENS,
        "seconds": seconds,
        "stages": guess.mean_stages,
        "rss": float(rss),
    }
    for name in ("petals", "swarm"):
        try:
            said[name] = tokens(BASELINES[name](snapshot, PlanOptions(), None, None))
        except SwarmTooSmall:
            said[name] = 0.0
    capacities = capacities_of(snapshot)
    longest = petals_layout(snapshot, capacities, keep_kv_room=False)
    said["longest"] = value_of(capacities, longest) / MTOKENS
    return said


def churn(report: Report, *, quick: bool) -> None:
    """A tenth of the peers leave and as many join: re-plan from the live plan."""
    for peers in (200,) if quick else (200, 1000):
        with report.guarded("churn", f"{peers} peers"):
            before = home_swarm(peers, 1)
            live = plan(before, flow_options(5.0 if quick else 10.0))
            after, gone = churned(before, 0.10, seed=5)
            kept = [a for a in live.assignments if a.peer not in gone]
            made, seconds = timed(lambda: plan(after, flow_options(4.5), live))  # noqa: B023
            moves = migration(after, live, made)
            held = sum(len(assignment.layers) for assignment in kept)
            moved = moves.fetched_layers / held
            share = made.value_mtokens_per_s / made.bound_mtokens_per_s
            greedy = tokens(BASELINES["petals"](after, PlanOptions(), None, None))
            report.add(
                Line(
                    "churn",
                    f"{peers} peers, 10 % leave and join",
                    f"{share:.2%} of the bound in {seconds:.1f} s, {moved:.2%} of held layers "
                    f"moved ({moves.fetched_layers} of {held}); "
                    f"{tokens(made) / greedy:.2f} × petals",
                    "≥ 95 % in ≤ 5 s, ≤ 3 % moved",
                    share >= 0.95 and seconds <= 5.5 and moved <= 0.03,
                    {"share": share, "seconds": seconds, "moved": moved, "flow": tokens(made)},
                )
            )


def repairs(report: Report, *, quick: bool) -> None:
    """One loss, one loss and a join, a tenth of both: mended at once from the live plan."""
    for peers, limit_s in ((24, 0.05), (200, 0.3)) if quick else REPAIRS:
        with report.guarded("repairs", f"{peers} peers"):
            before = home_swarm(peers, 1)
            live = plan(before, flow_options(2.0 if quick else 10.0))
            for what, gone in _changes(before, 3 if quick else CHANGES).items():
                _repair_row(report, f"{peers} peers, {what}", live, gone, limit_s)


def _changes(before: Snapshot, count: int) -> dict[str, list[Snapshot]]:
    ones = [churned(before, 1.01 / len(before.peers), seed)[0] for seed in range(3, 3 + count)]
    lost = [
        replace(one, peers=tuple(p for p in one.peers if not p.peer.endswith("-new")))
        for one in ones
    ]
    tenths = [churned(before, 0.1, seed)[0] for seed in range(3, 3 + max(1, count // 3))]
    return {"one lost": lost, "one lost, one joins": ones, "10 % leave and join": tenths}


def _repair_row(
    report: Report, name: str, live: Placement, changed: list[Snapshot], limit_s: float
) -> None:
    """The median CPU time, share of the bound and of held layers moved; beside a short search."""
    took_s, shares, moved, beside = [], [], [], []
    for after in changed:
        began_s = time.process_time()
        made = repair(after, live, PlanOptions(objective=Objective.FLOW))
        took_s.append(time.process_time() - began_s)
        there = {profile.peer for profile in after.peers}
        held = sum(len(a.layers) for a in live.assignments if a.peer in there)
        shares.append(made.value_mtokens_per_s / made.bound_mtokens_per_s)
        moved.append(migration(after, live, made).fetched_layers / held)
        if len(there) <= SEARCHED_PEERS:
            fresh = plan(after, PlanOptions(objective=Objective.FLOW, steps=300))
            beside.append(made.value_mtokens_per_s / fresh.value_mtokens_per_s)
    share, seconds = median(shares), median(took_s)
    few = "10 %" not in name
    against = f", {median(beside):.2f} × a search of 300 steps" if beside else ""
    enough = median(beside) >= 0.95 if beside and few else share >= (0.95 if few else 0.9)
    report.add(
        Line(
            "repairs",
            name,
            f"{share:.2%} of the bound (least {min(shares):.2%}){against} in {seconds:.3f} CPU-s, "
            f"{sum(moved) / len(moved):.2%} of held layers moved (most {max(moved):.2%}); "
            f"{len(changed)} swarms",
            f"≥ {0.95 if few else 0.9:.0%}{' of the search' if beside and few else ''}"
            + (f" in ≤ {limit_s:g} CPU-s" if few else ""),
            enough and (not few or seconds <= limit_s),
            {"share": share, "seconds": seconds, "moved": sum(moved) / len(moved)},
        )
    )


def regions(report: Report, *, quick: bool) -> None:
    """One plan per region against one plan over all."""
    with report.guarded("regions", "200 peers"):
        limit_s = 8.0 if quick else 10.0
        snapshot = home_swarm(200, 1)
        whole = plan(snapshot, flow_options(limit_s))
        splits = region_splits(snapshot, capacities_of(snapshot))
        if not splits:
            report.add(
                Line("regions", "200 peers", "no split covers the model", "one", holds=False)
            )
            return
        parts = []
        for rows in splits[0]:
            peers = tuple(snapshot.peers[int(row)] for row in rows)
            part = Snapshot(snapshot.model, peers, snapshot.links, snapshot.default_link)
            parts.append(plan(part, flow_options(limit_s / len(splits[0]))))
        flow = sum(map(tokens, parts))
        lost = 1 - flow / tokens(whole)
        apart = sum(_network_s(snapshot, part) * tokens(part) for part in parts) / flow
        together = _network_s(snapshot, whole)
        report.add(
            Line(
                "regions",
                f"200 peers in {len(parts)} regions",
                f"{lost:.2%} of flow lost; network {apart * 1000:.0f} ms a token instead of "
                f"{together * 1000:.0f} ms ({apart / together:.2f} ×)",
                "≤ 3 % lost, ≤ 0.5 ×",
                lost <= 0.03 and apart <= 0.5 * together,
                {"lost": lost, "network_s": apart, "network_whole_s": together},
            )
        )


def _network_s(snapshot: Snapshot, placement: Placement) -> float:
    """Seconds a token spends between stages, at full load."""
    spent = 0.0
    for edge in placement.flows:
        if edge.source is not None and edge.target is not None:
            link = snapshot.link(edge.source, edge.target)
            spent += edge.mtokens_per_s * (link.latency_s if link is not None else 0.0)
    return spent / placement.value_mtokens_per_s


def main() -> None:
    """Measure, print, and exit with 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(prog="./scripts/bench planner", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute; fewer and smaller")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also keep the figures")
    parser.add_argument("--only", metavar="GROUP", help="clusters, published, home, churn, …")
    asked = parser.parse_args()
    report = Report("Planner")
    groups: dict[str, Callable[[], None]] = {
        "published": lambda: published_flows(report),
        "clusters": lambda: paper_clusters(report, quick=asked.quick),
        "home": lambda: home_swarms(report, quick=asked.quick),
        "churn": lambda: churn(report, quick=asked.quick),
        "repairs": lambda: repairs(report, quick=asked.quick),
        "regions": lambda: regions(report, quick=asked.quick),
        "small": lambda: small_swarms(report, quick=asked.quick),
        "bad-input": lambda: bad_input(report),
    }
    if asked.only is not None and asked.only not in groups:
        parser.error(f"--only: {asked.only!r} is not one of {', '.join(groups)}")
    for name, measure in groups.items():
        if asked.only in (None, name):
            with report.guarded(name, "the whole group"):
                measure()
    sys.exit(report.finish(asked.json))


if __name__ == "__main__":
    main()
