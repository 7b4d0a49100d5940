"""The `helix-peer` command: lend this machine to a swarm.

Always: options are checked before anything is started or written; what is heavy is imported by the
command that needs it, so `--help` answers at once.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from helix_p2p.cli.errors import run_command
from helix_p2p.cli.options import (
    MultiaddrsParam,
    answer_options,
    network_config,
    network_options,
    service_options,
    set_up_logging,
    state_dir_option,
)
from helix_p2p.cli.units import RateParam, SizeParam
from helix_p2p.errors import ConfigError, InviteError

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTISATIONS = ("none", "int8", "nf4")
C = TypeVar("C", bound=Callable[..., Any])


def device_options(command: C) -> C:
    """How the model is held: the same words for what joins and what measures."""
    options = (
        click.option(
            "--max-memory",
            type=SizeParam(),
            help="Most memory for weights and KV cache, e.g. 8GB. "
            "By default what the device has free.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda, cuda:1 (also for ROCm) or mps.",
        ),
        click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True),
        click.option(
            "--quantization",
            type=click.Choice(QUANTISATIONS),
            default="none",
            show_default=True,
            help="Hold the layers in fewer bits; nf4 needs helix-p2p[nf4].",
        ),
        click.option(
            "--cuda-graphs",
            is_flag=True,
            help="Record decode steps and replay them (CUDA, ROCm): faster for small batches.",
        ),
        click.option("--threads", type=click.IntRange(min=1), help="CPU threads for the engine."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HELIX_PEER"}
)
@click.version_option(package_name="helix-p2p", prog_name="helix-peer")
def cli() -> None:
    """Lend this machine's GPU, or CPU, to a swarm that serves a large language model.

    Every option can also be set in the environment, e.g. HELIX_PEER_JOIN_MAX_MEMORY.
    """


def _flat(groups: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return tuple(address for group in groups for address in group)


@cli.command()
@click.argument("invite", required=False, envvar="HELIX_INVITE")
@click.option(
    "--bootstrap",
    type=MultiaddrsParam(with_peer=True),
    multiple=True,
    metavar="ADDR[,ADDR…]",
    help="Bootstrap nodes of an open swarm, instead of an invite; needs --model.",
)
@click.option(
    "-m",
    "--model",
    metavar="FOLDER-OR-ID",
    help="Where the weights are: a model's folder or org/name. By default the invite's model.",
)
@device_options
@click.option(
    "--max-upload",
    type=RateParam(),
    help="Most upload that plans may count on, e.g. 20Mbit/s. By default it is measured.",
)
@click.option("--public-name", default="", help="What dashboards call this peer.")
@click.option("--no-planning", is_flag=True, help="Never stand for election as planner.")
@network_options(default_port=0)
@state_dir_option("peer")
@service_options
def join(
    invite: str | None,
    bootstrap: tuple[tuple[str, ...], ...],
    model: str | None,
    max_memory: int | None,
    max_upload: float | None,
    device: str,
    dtype: str,
    quantization: str,
    cuda_graphs: bool,
    threads: int | None,
    public_name: str,
    no_planning: bool,
    host: str,
    port: int,
    announce_maddrs: tuple[tuple[str, ...], ...],
    state_dir: Path,
    log_level: str,
    verbose: bool,
    as_json: bool,
) -> None:
    """Join a swarm and serve until Ctrl-C.

    Ctrl-C leaves gracefully; twice, at once.

    INVITE is the line that `helix-bootstrap` printed; `-` reads it from standard input. It may also
    stand in HELIX_INVITE.
    """
    from helix_p2p.cli.events import EventPrinter
    from helix_p2p.node.config import PeerConfig
    from helix_p2p.node.events import NodeEvent

    set_up_logging(log_level, verbose=verbose)
    if invite == "-":
        invite = sys.stdin.read()
    check_way_in(invite, _flat(bootstrap), model)

    events = EventPrinter(as_json=as_json)
    events.show(NodeEvent("starting", "loading the engine, which can take half a minute"))
    from helix_peer.service import serve  # imports torch: only when there is a way in

    serve(
        PeerConfig(
            state_dir=state_dir,
            network=network_config(host, port, announce_maddrs, _flat(bootstrap)),
            invite=invite,
            model=model,
            device=device,
            dtype=dtype,
            quantisation=quantization,
            graphs=cuda_graphs,
            memory_bytes=max_memory,
            uplink_bytes_per_s=max_upload,
            public_name=public_name,
            may_plan=not no_planning,
            torch_threads=threads,
        ),
        as_json=as_json,
    )


def check_way_in(invite: str | None, bootstrap: tuple[str, ...], model: str | None) -> None:
    """Refuse what could lead into no swarm, or into two.

    Raises:
        ConfigError: Neither or both ways were given, or the open way without a model.
        InviteError: The invite cannot be used now, or not by a peer.
    """
    if invite is None and not bootstrap:
        raise ConfigError(
            "there is no way in: an INVITE is missing",
            hint="paste the line that helix-bootstrap printed, or name --bootstrap and --model",
        )
    if invite is not None and bootstrap:
        raise ConfigError(
            "an invite names its bootstrap nodes already", hint="leave --bootstrap away"
        )
    if bootstrap and model is None:
        raise ConfigError("--bootstrap needs --model", hint="name the model that the swarm serves")
    if invite is not None:
        from helix_p2p.membership.credentials import Role
        from helix_p2p.membership.invite import read_invite

        read = read_invite(invite)
        read.check(time.time())
        granted = read.granted()
        if granted is not None and Role.PEER not in granted.roles:
            raise InviteError(
                f"this invite is only for {', '.join(granted.roles)}",
                hint="ask the swarm's operator for one with the role peer",
            )


@cli.command()
@click.option("-m", "--model", required=True, metavar="FOLDER-OR-ID", help="The model.")
@device_options
@click.option("--quick", is_flag=True, help="Only what joining measures: seconds.")
@click.option("--again", is_flag=True, help="Measure even what is remembered.")
@answer_options
def bench(
    model: str,
    max_memory: int | None,
    device: str,
    dtype: str,
    quantization: str,
    cuda_graphs: bool,
    threads: int | None,
    quick: bool,
    again: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Measure this machine with a model.

    Seconds per layer against batch and context, the head, loading, KV room, and T(k), tokens per
    second with k layers: what plans count on. It is remembered, and the next join announces it.
    """
    from helix_p2p.node.config import PeerConfig
    from helix_peer import bench as measuring

    config = PeerConfig(
        state_dir=Path(),
        device=device,
        dtype=dtype,
        quantisation=quantization,
        graphs=cuda_graphs,
        memory_bytes=max_memory,
        torch_threads=threads,
    )
    result = measuring.bench(config, model, quick=quick, again=again)
    measuring.print_bench(result, as_json=as_json)


@cli.command()
@click.argument("address", required=False, type=MultiaddrsParam(with_peer=True))
@click.option("--invite", envvar="HELIX_INVITE", help="To ask the peer at ADDRESS as a guest.")
@state_dir_option("peer")
@answer_options
def status(
    address: tuple[str, ...] | None, invite: str | None, state_dir: Path, as_json: bool, **_: Any
) -> None:
    """Show a peer and the swarm as it sees it.

    This machine's peer, or the one at ADDRESS.
    """
    from helix_p2p.cli.control import ask_status
    from helix_p2p.cli.status import print_status

    if address is None:
        said = ask_status(state_dir)
    elif invite is None:
        raise ConfigError("a peer elsewhere answers members only", hint="give an --invite as well")
    else:
        from helix_p2p.cli.running import run_once
        from helix_p2p.node.remote import ask_remote_status

        said = run_once(ask_remote_status(address[0], invite))
    print_status(said, as_json=as_json)


@cli.command()
@click.argument("invite", required=False, envvar="HELIX_INVITE")
@click.option(
    "--bootstrap",
    type=MultiaddrsParam(with_peer=True),
    multiple=True,
    metavar="ADDR[,ADDR…]",
    help="Bootstrap nodes to try, instead of an invite's.",
)
@click.option("-m", "--model", metavar="FOLDER-OR-ID", help="A model to look for.")
@click.option("--device", default="auto", show_default=True)
@network_options(default_port=0)
@state_dir_option("peer")
@answer_options
def doctor(
    invite: str | None,
    bootstrap: tuple[tuple[str, ...], ...],
    model: str | None,
    device: str,
    host: str,
    port: int,
    state_dir: Path,
    as_json: bool,
    **_: Any,
) -> int:
    """Find what would keep this machine from serving.

    Software, device, memory, disk, network.
    """
    from helix_peer.doctor import Questions, examine, print_findings

    findings = examine(
        Questions(
            invite=invite,
            bootstrap=_flat(bootstrap),
            model=model,
            device=device,
            host=host,
            port=port,
            state_dir=state_dir,
        )
    )
    return print_findings(findings, as_json=as_json)


def main() -> None:
    """Entry point."""
    run_command(cli, "helix-peer")
