"""How a plan is shown: tables for people, JSON for programs. It decides nothing.

Always: both show the same facts; JSON has SI units named in its keys and no rounding beyond a
thousandth of a token per second.
"""

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from helix_p2p.cli.units import format_duration, format_size
from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.planning.estimate import Estimate, estimate
from helix_p2p.planning.marginal import PeerWorth
from helix_p2p.planning.plan import MinCut, Placement
from helix_p2p.planning.planner import Progress
from helix_p2p.planning.replan import Migration
from helix_p2p.types import PeerId

PROVEN_GAP = 5e-7
MOST_PEERS_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One planner in the comparison.

    Attributes:
        planner: Its name.
        placement: What it found; None where it could not plan.
        error: Why not.
    """

    planner: str
    placement: Placement | None
    error: str | None


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What becomes of a plan when peers leave.

    Attributes:
        gone: Who leaves.
        repaired: The flow that is left at once, everyone else staying where they are.
        replanned: The new plan; None where none is possible.
        moves: From the one to the other.
        error: Why there is no new plan.
    """

    gone: tuple[PeerId, ...]
    repaired: Placement
    replanned: Placement | None
    moves: Migration | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Parts:
    """All that there is to show."""

    title: str
    snapshot: Snapshot
    placement: Placement
    worths: tuple[PeerWorth, ...]
    compared: tuple[Row, ...]
    what_if: WhatIf | None


def progress_line(planner: str, progress: Progress) -> str:
    """One line while it works."""
    return (
        f"{planner}: {progress.phase} · flow {_rate(progress.incumbent_mtokens_per_s)} · "
        f"bound {_rate(progress.bound_mtokens_per_s)} · gap {progress.gap:.1%} · "
        f"{progress.elapsed_s:.1f} s"
    )


def show(parts: Parts, console: Console, *, explain: bool) -> None:
    """Print tables."""
    placement, snapshot = parts.placement, parts.snapshot
    console.print(f"[bold]{escape(parts.title)}[/]  {len(snapshot.peers)} peers")
    console.print(_summary(snapshot, placement))
    if parts.worths and explain:
        console.print(_worth_table(parts))
        console.print(f"[bold]Why not more:[/] {escape(cut_words(placement.min_cut, placement))}")
    else:
        console.print(_placement_table(parts))
        held = {assignment.peer for assignment in placement.assignments}
        idle = [profile.peer for profile in snapshot.peers if profile.peer not in held]
        if idle:
            more = f" and {len(idle) - 12} more" if len(idle) > 12 else ""
            console.print(f"without layers: {escape(', '.join(idle[:12]))}{more}")
    if parts.compared:
        console.print("\n[bold]All planners[/], flow and what they would serve in tokens/s:")
        console.print(_compare_table(parts))
        for line in _compare_notes(parts):
            console.print(f"  {escape(line)}", style="dim")
    if parts.what_if is not None:
        for line in _what_if_lines(parts.what_if, placement):
            console.print(escape(line))


def as_json(parts: Parts) -> dict[str, object]:
    """The same as plain data."""
    said: dict[str, object] = {
        "cluster": parts.title.split(" · ")[0],
        "model": parts.snapshot.model.name,
        "layers": parts.snapshot.model.layers,
        "peers": len(parts.snapshot.peers),
        "plan": _plan_json(parts.snapshot, parts.placement),
        "worth": [
            {
                "peer": worth.peer,
                "carries_tokens_per_s": worth.flow_mtokens_per_s / 1000,
                "capacity_tokens_per_s": worth.capacity_mtokens_per_s / 1000,
                "lost_without_it_tokens_per_s": worth.marginal_mtokens_per_s / 1000,
                "limit": worth.limit,
                "in_min_cut": worth.in_cut,
            }
            for worth in parts.worths
        ],
    }
    if parts.compared:
        said["compared"] = [
            {"planner": row.planner, "error": row.error}
            if row.placement is None
            else {"planner": row.planner, "plan": _plan_json(parts.snapshot, row.placement)}
            for row in parts.compared
        ]
    if parts.what_if is not None:
        said["what_if_leaves"] = _what_if_json(parts.snapshot, parts.what_if)
    return said


def cut_words(cut: MinCut, placement: Placement) -> str:
    """The min cut in a sentence."""
    flow = _rate(placement.value_mtokens_per_s)
    if cut.layer is not None:
        holders = ", ".join(cut.peers[:8]) + (", …" if len(cut.peers) > 8 else "")
        one = len(cut.peers) == 1
        return (
            f"layer {cut.layer} is held by {holders} {'alone' if one else 'only'}; "
            f"{'it carries' if one else 'together they carry'} {flow}."
        )
    parts = [*cut.peers, *(f"{a or 'clients'} → {b or 'clients'}" for a, b in cut.links)]
    shown = ", ".join(parts[:8]) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "")
    what = "links" if not cut.peers else "peers and links" if cut.links else "peers"
    return f"these {what} are full and cut the pipeline in two: {shown}; they carry {flow}."


def _summary(snapshot: Snapshot, placement: Placement) -> Table:
    guess = estimate(snapshot, placement.assignments, placement.flows)
    proof = "proven optimal" if placement.gap < PROVEN_GAP else f"gap {placement.gap:.2%}"
    table = Table.grid(padding=(0, 2))
    table.add_row(
        "flow",
        f"[bold]{_rate(placement.value_mtokens_per_s)}[/]",
        f"bound {_rate(placement.bound_mtokens_per_s)}, {proof}",
    )
    table.add_row(
        "estimate",
        f"{guess.throughput_tokens_per_s:,.1f} tokens/s",
        f"{guess.requests_in_flight:,.0f} requests in flight, {guess.token_s * 1000:,.0f} ms a "
        f"token ({guess.light_token_s * 1000:,.0f} ms alone), {guess.mean_stages:.1f} stages, "
        f"held back by {'KV memory' if guess.limit == 'kv' else guess.limit}",
    )
    idle = len(snapshot.peers) - len(placement.assignments)
    used = f"{len(placement.assignments)} peers" + (f", {idle} without layers" if idle else "")
    table.add_row("found by", escape(placement.solver), f"in {_seconds(placement.solve_s)}, {used}")
    return table


def _placement_table(parts: Parts) -> Table:
    carried = _carried(parts.placement)
    kinds = {profile.peer: profile for profile in parts.snapshot.peers}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, side in (("peer", "left"), ("kind", "left"), ("layers", "right"), ("of", "right")):
        table.add_column(name, justify="right" if side == "right" else "left")
    table.add_column("tokens/s", justify="right")
    table.add_column("held", no_wrap=True)
    shown = sorted(parts.placement.assignments, key=lambda a: (a.layers.start, a.layers.end))
    cut = set(parts.placement.min_cut.peers)
    for assignment in shown[:MOST_PEERS_SHOWN]:
        profile = kinds[assignment.peer]
        layers = assignment.layers
        table.add_row(
            f"[red]{escape(assignment.peer)}[/]"
            if assignment.peer in cut
            else escape(assignment.peer),
            escape(profile.kind),
            str(layers),
            str(len(layers)),
            _tokens(carried.get(assignment.peer, 0)),
            _strip(layers.start, layers.end, parts.snapshot.model.layers),
        )
    if len(shown) > MOST_PEERS_SHOWN:
        table.caption = f"{len(shown) - MOST_PEERS_SHOWN} more peers; --json has them all"
    return table


def _worth_table(parts: Parts) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("peer")
    table.add_column("kind")
    for name in ("layers", "tokens/s", "could carry", "lost without it"):
        table.add_column(name, justify="right")
    table.add_column("held back by")
    kinds = {profile.peer: profile.kind for profile in parts.snapshot.peers}
    ranked = sorted(parts.worths, key=_most_missed)
    for worth in ranked[:MOST_PEERS_SHOWN]:
        name = escape(worth.peer)
        spare = worth.flow_mtokens_per_s < 0.995 * worth.capacity_mtokens_per_s
        table.add_row(
            f"[red]{name}[/]" if worth.in_cut else name,
            escape(kinds[worth.peer]),
            str(worth.layers or "none"),
            _tokens(worth.flow_mtokens_per_s),
            _tokens(worth.capacity_mtokens_per_s),
            _tokens(worth.marginal_mtokens_per_s),
            "" if worth.limit is None else "other peers" if spare else str(worth.limit),
        )
    if len(ranked) > MOST_PEERS_SHOWN:
        table.caption = f"{len(ranked) - MOST_PEERS_SHOWN} more peers; --json has them all"
    return table


def _most_missed(worth: PeerWorth) -> tuple[int, int, str]:
    start = worth.layers.start if worth.layers is not None else 0
    return (-worth.marginal_mtokens_per_s, start, worth.peer)


def _compare_table(parts: Parts) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("planner", no_wrap=True)
    for name in ("flow", "of bound", "of the above", "served", "token", "stages", "time"):
        table.add_column(name, justify="right")
    # The tightest proof of any planner holds for all of them.
    bound = min(r.placement.bound_mtokens_per_s for r in parts.compared if r.placement)
    above = parts.placement.value_mtokens_per_s
    for row in parts.compared:
        if row.placement is None:
            table.add_row(row.planner, "none")
            continue
        value = row.placement.value_mtokens_per_s
        guess = estimate(parts.snapshot, row.placement.assignments, row.placement.flows)
        table.add_row(
            escape(row.planner),
            _tokens(value),
            _share(value, bound),
            _share(value, above),
            f"{guess.throughput_tokens_per_s:,.1f}",
            f"{guess.light_token_s * 1000:,.0f} ms",
            f"{guess.mean_stages:.1f}",
            _seconds(row.placement.solve_s),
        )
    return table


def _compare_notes(parts: Parts) -> list[str]:
    """What the table has no room for."""
    return [
        f"{row.planner}: {row.error or (row.placement.solver if row.placement else '')}"
        for row in parts.compared
        if row.placement is None or "start only" in row.placement.solver
    ]


def _what_if_lines(what_if: WhatIf, before: Placement) -> list[str]:
    names = ", ".join(what_if.gone)
    was, now = before.value_mtokens_per_s, what_if.repaired.value_mtokens_per_s
    lines = [f"Without {names}: at once {_rate(now)} of {_rate(was)} ({_share(now, was)})"]
    if what_if.replanned is None or what_if.moves is None:
        return [*lines, f"  and no new plan: {what_if.error}"]
    after = what_if.replanned.value_mtokens_per_s
    lines.append(
        f"  after re-planning {_rate(after)} ({_share(after, was)}): "
        f"{len(what_if.moves.moves)} peers change, {format_size(what_if.moves.fetched_bytes)} to "
        f"fetch, {format_duration(what_if.moves.seconds)}"
    )
    return lines


def _what_if_json(snapshot: Snapshot, what_if: WhatIf) -> dict[str, object]:
    return {
        "gone": list(what_if.gone),
        "at_once_tokens_per_s": what_if.repaired.value_mtokens_per_s / 1000,
        "error": what_if.error,
        "replanned": None if what_if.replanned is None else _plan_json(snapshot, what_if.replanned),
        "migration": None
        if what_if.moves is None
        else {
            "peers": len(what_if.moves.moves),
            "fetched_layers": what_if.moves.fetched_layers,
            "fetched_bytes": what_if.moves.fetched_bytes,
            "seconds": what_if.moves.seconds,
        },
    }


def _plan_json(snapshot: Snapshot, placement: Placement) -> dict[str, object]:
    guess: Estimate = estimate(snapshot, placement.assignments, placement.flows)
    cut = placement.min_cut
    return {
        "solver": placement.solver,
        "solve_s": round(placement.solve_s, 4),
        "flow_tokens_per_s": placement.value_mtokens_per_s / 1000,
        "bound_tokens_per_s": placement.bound_mtokens_per_s / 1000,
        "gap": placement.gap,
        "estimate": {
            "throughput_tokens_per_s": guess.throughput_tokens_per_s,
            "token_s": guess.token_s,
            "light_token_s": guess.light_token_s,
            "requests_in_flight": guess.requests_in_flight,
            "mean_stages": guess.mean_stages,
            "limit": guess.limit,
        },
        "assignments": [
            {"peer": a.peer, "start": a.layers.start, "end": a.layers.end}
            for a in placement.assignments
        ],
        "flows": [
            {"from": f.source, "to": f.target, "tokens_per_s": f.mtokens_per_s / 1000}
            for f in placement.flows
        ],
        "min_cut": {
            "layer": cut.layer,
            "peers": list(cut.peers),
            "links": [list(way) for way in cut.links],
        },
    }


def _carried(placement: Placement) -> dict[PeerId, int]:
    carried: dict[PeerId, int] = {}
    for edge in placement.flows:
        if edge.target is not None:
            carried[edge.target] = carried.get(edge.target, 0) + edge.mtokens_per_s
    return carried


def _strip(start: int, end: int, layers: int, cells: int = 32) -> str:
    """Where a range lies, as a strip of text."""
    first, last = (
        start * cells // layers,
        max(start * cells // layers + 1, -(-end * cells // layers)),
    )
    return "·" * first + "█" * (last - first) + "·" * (cells - last)


def _rate(mtokens_per_s: int) -> str:
    return f"{mtokens_per_s / 1000:,.1f} tokens/s"


def _tokens(mtokens_per_s: int) -> str:
    return f"{mtokens_per_s / 1000:,.1f}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0 %"


def _seconds(seconds: float) -> str:
    return format_duration(seconds) if seconds > 0 else "0 s"
