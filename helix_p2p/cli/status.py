"""Showing a node's status: as JSON for programs, as a page for people.

Always: what is shown is what the node said, in people's units; nothing is computed here but layout.
What is drawn is bounded, however much another machine says; JSON is whole.
"""

import json
from collections.abc import Mapping
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from helix_p2p.cli.shown import harmless
from helix_p2p.cli.units import format_duration, format_size
from helix_p2p.errors import DecodeError
from helix_p2p.node.status import MemberStatus, NodeStatus, PlanStatus

Names = Mapping[str, str]
SHORT_ID_CHARACTERS = 8
MOST_ADDRESSES = 16
MOST_CHARACTERS = 1000
MOST_ROWS = 200
"""Of members, and of flows: nobody reads more, and drawing a row takes a millisecond."""
WIDE_COLUMNS = 110
"""Terminals narrower than this do without the name of the device."""


def print_status(said: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a node said of itself.

    Args:
        said: The JSON object of a `NodeStatus`.
        as_json: Print it as it is.

    Raises:
        DecodeError: It is not a status.
    """
    if as_json:
        click.echo(json.dumps(said))
        return
    try:
        status = msgspec.convert(said, NodeStatus)
    except msgspec.ValidationError as error:
        raise DecodeError(f"the node's status is of another version: {error}") from error
    console = Console(highlight=False)
    names = {member.peer: member.name[:MOST_CHARACTERS] for member in reversed(status.members)}
    console.print(_summary(status, names))
    if _count(status):
        console.print(_members(status, names, with_device=console.width >= WIDE_COLUMNS))
        console.print(_more(_count(status)), end="")
    if status.plan is not None:
        console.print(flow_lines(status, names))
    if entries := _bootstrap_nodes(status, names):
        console.print(entries)
    if status.elsewhere:
        console.print(_elsewhere(status))


def cell(text: str) -> str:
    """Text of other machines for rich: harmless, on one line, its brackets no markup."""
    return escape(" ".join(harmless(text[:MOST_CHARACTERS]).split()))


def short(peer: str) -> str:
    """The end of a peer id, which tells peers apart."""
    return cell(peer if len(peer) <= SHORT_ID_CHARACTERS else f"…{peer[-SHORT_ID_CHARACTERS:]}")


def called(peer: str, names: Names) -> str:
    """A peer's public name, or the end of its id."""
    return cell(names.get(peer, "")) or short(peer)


def _more(count: int) -> str:
    return f"… and {count - MOST_ROWS} more; --json names all\n" if count > MOST_ROWS else ""


def flow_lines(status: NodeStatus, names: Names) -> str:
    """The plan's edges, first those that start at the clients, each with its tokens per second."""
    if status.plan is None:
        return ""
    held = {it.peer: f" {_layers((it.start, it.end))}" for it in status.plan.placement}

    def end(peer: str | None, otherwise: str) -> str:
        return otherwise if peer is None else called(peer, names) + held.get(peer, "")

    order = {it.peer: number for number, it in enumerate(status.plan.placement)}
    flows = sorted(
        status.plan.flows, key=lambda it: -1 if it.source is None else order.get(it.source, 0)
    )
    lines = (
        f"  {end(flow.source, 'clients')} ─{flow.tokens_per_s:.1f} tokens/s─▶ "
        f"{end(flow.target, 'answer')}"
        for flow in flows[:MOST_ROWS]
    )
    return "\n".join([*lines, _more(len(flows))]).rstrip("\n")


def _count(status: NodeStatus) -> int:
    return sum(map(_lends, status.members))


def _lends(member: MemberStatus) -> bool:
    """A bootstrap node is a member too, and no peer: it lends nothing."""
    return member.memory_bytes > 0


def _bootstrap_nodes(status: NodeStatus, names: Names) -> str:
    """One line that names the members that lend nothing."""
    nodes = [it.peer for it in status.members if not _lends(it)]
    named = [
        called(peer, names) + (" (this)" if peer == status.peer else "")
        for peer in nodes[:MOST_ROWS]
    ]
    return (
        f"bootstrap {'node' if len(named) == 1 else 'nodes'}: {', '.join(named)}" if named else ""
    )


def _summary(status: NodeStatus, names: Names) -> Table:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    rows.add_row(cell(status.role), cell(status.peer))
    rows.add_row(
        "state", f"{cell(status.state)}{f': {cell(status.detail)}' if status.detail else ''}"
    )
    rows.add_row(
        "swarm",
        f"{cell(status.swarm)} ({'invite-only' if status.trusted else 'open, untrusted'}), "
        f"{_count(status)} {'peer' if _count(status) == 1 else 'peers'}"
        + (f" in cell {status.cell}, one of {status.cells}" if status.cells > 1 else ""),
    )
    rows.add_row(
        "model", f"{cell(status.model)}, {status.layers} layers {cell(status.dtype)}".rstrip()
    )
    if status.role == "peer":
        rows.add_row("device", f"{cell(status.device)}, {format_size(status.memory_bytes)}")
        rows.add_row("layers", _holding(status))
        rows.add_row(
            "sessions",
            f"{status.entry_sessions} as entry peer, {status.stage_sessions} staged, "
            f"{status.waiting_sessions} waiting; KV cache {status.kv_used:.0%} reserved",
        )
        rows.add_row(
            "so far",
            f"{status.tokens_delivered} tokens delivered, {status.failovers} failovers, "
            f"up {format_duration(status.uptime_s)}",
        )
    for address in status.addresses[:MOST_ADDRESSES]:
        rows.add_row("reach", cell(address))
    if status.plan is not None:
        rows.add_row("plan", plan_line(status.plan))
        rows.add_row("planner", called(status.plan.planner, names))
        if status.plan.bottleneck:
            rows.add_row("bottleneck", cell(status.plan.bottleneck))
    return rows


def plan_line(plan: PlanStatus) -> str:
    """Epoch, flow and certificate in one line."""
    proof = "proven optimal" if plan.gap == 0 else f"gap {plan.gap:.1%}"
    return (
        f"epoch {plan.epoch}: {plan.tokens_per_s:.1f} tokens/s for many requests at once, of at "
        f"most {plan.bound_tokens_per_s:.1f} ({proof}), by {cell(plan.solver)} in "
        f"{format_duration(plan.solve_s)}"
    )


def _holding(status: NodeStatus) -> str:
    holds = _layers(status.holds)
    if status.to_hold == status.holds:
        return holds
    return f"{holds}, {_layers(status.to_hold)} by plan ({status.loaded_layers} of them loaded)"


def _members(status: NodeStatus, names: Names, *, with_device: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("peer", "state", "layers", "by plan", "memory", "RTT", "heard"):
        table.add_column(heading, no_wrap=True)
    if with_device:
        table.add_column("device", no_wrap=True, overflow="ellipsis")
    planned = {it.peer: (it.start, it.end) for it in status.plan.placement} if status.plan else {}
    peers = [member for member in status.members if _lends(member)]
    ordered = sorted(peers, key=lambda it: (it.serving or (1 << 30, 0), it.peer))
    for member in ordered[:MOST_ROWS]:
        cells = (
            called(member.peer, names) + (" (this)" if member.peer == status.peer else ""),
            cell(member.state),
            _layers(member.serving),
            _layers(planned.get(member.peer)),
            format_size(member.memory_bytes),
            "" if member.rtt_s is None else format_duration(member.rtt_s),
            "" if member.age_s is None else f"{format_duration(member.age_s)} ago",
            cell(member.device),
        )
        table.add_row(*cells[: len(table.columns)])
    return table


def _elsewhere(status: NodeStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("cell", "peers", "serving", "memory", "seen"):
        table.add_column(heading, no_wrap=True)
    for other in status.elsewhere[:MOST_ROWS]:
        table.add_row(
            str(other.cell),
            str(other.peers),
            str(other.serving),
            format_size(other.memory_bytes),
            f"{format_duration(other.age_s)} ago",
        )
    return table


def _layers(layers: tuple[int, int] | None) -> str:
    return "–" if layers is None else f"[{layers[0]}, {layers[1]})"
