"""`helix-peer doctor`: what would keep this machine from serving, found out before it joins.

Each examination looks at the real thing (the daemon is started, the bootstrap node dialled, torch
imported) and ends in one finding. Always: nothing is changed on this machine; one examination that
fails does not keep the next from being made.
"""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from helix_p2p.cli.ports import check_port_is_free
from helix_p2p.cli.running import run_once
from helix_p2p.cli.units import format_duration, format_size
from helix_p2p.errors import HelixError
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import Role, utc
from helix_p2p.membership.invite import read_invite

NEEDED_PACKAGES = ("torch", "transformers", "safetensors", "hivemind", "tokenizers", "psutil")
LEAST_FREE_DISK_BYTES = 2_000_000_000
DIAL_TIMEOUT_S = 8.0


class Verdict(StrEnum):
    """How a finding bears on serving."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Questions:
    """What to examine; the options of `helix-peer doctor`."""

    invite: str | None
    bootstrap: tuple[str, ...]
    model: str | None
    device: str
    host: str
    port: int
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Finding:
    """One examination's result.

    Attributes:
        about: What was looked at.
        verdict: Whether it is in the way.
        said: What was found.
        advice: What to do about it, empty where nothing needs doing.
    """

    about: str
    verdict: Verdict
    said: str
    advice: str = ""


def examine(questions: Questions) -> Iterator[Finding]:
    """Make every examination that the questions allow, one after another."""
    yield _python()
    yield from (_package(name) for name in NEEDED_PACKAGES)
    yield _guarded("device", lambda: _device(questions.device))
    yield _guarded("state folder", lambda: _state_dir(questions.state_dir))
    yield _guarded("disk", lambda: _disk(questions.state_dir))
    yield _guarded("port", lambda: _port(questions.host, questions.port))
    addresses = questions.bootstrap
    if questions.invite is not None:
        yield _guarded("invite", lambda: _invite(questions.invite or ""))
        with contextlib.suppress(HelixError):
            addresses = (*addresses, *read_invite(questions.invite).addresses)
    if questions.model is not None:
        yield _guarded("model", lambda: _model(questions.model or ""))
    if addresses:
        for address in addresses:
            yield _guarded("bootstrap", functools.partial(_dial, address))
    else:
        yield _guarded("libp2p", lambda: _dial(None))


def print_findings(findings: Iterator[Finding], *, as_json: bool) -> int:
    """Print each finding as it is made.

    Returns:
        The exit status: 0 when nothing is in the way, 1 otherwise.
    """
    console = Console(highlight=False)
    signs = {Verdict.GOOD: "[green]✓[/]", Verdict.WARNING: "[yellow]![/]", Verdict.BAD: "[red]✗[/]"}
    bad = 0
    for finding in findings:
        bad += finding.verdict is Verdict.BAD
        if as_json:
            click.echo(json.dumps(asdict(finding)))
            continue
        advice = f" → {escape(finding.advice)}" if finding.advice else ""
        line = f"{signs[finding.verdict]} {finding.about:<14} {escape(finding.said)}{advice}"
        console.print(line, soft_wrap=True)
    if not as_json:
        console.print(f"{bad} in the way" if bad else "nothing is in the way")
    return 1 if bad else 0


def _guarded(about: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except HelixError as error:
        return Finding(about, Verdict.BAD, error.message, error.hint or "")


def _python() -> Finding:
    version = platform.python_version()
    fits = sys.version_info >= (3, 11)
    verdict = Verdict.GOOD if fits else Verdict.BAD
    return Finding("python", verdict, f"{version} on {platform.system()} {platform.machine()}")


def _package(name: str) -> Finding:
    try:
        return Finding(name, Verdict.GOOD, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, Verdict.BAD, "is not installed", "pip install 'helix-p2p[peer]'")


def _device(wanted: str) -> Finding:
    from helix_p2p.engine.hardware import find_hardware

    found = find_hardware(None if wanted == "auto" else wanted)
    said = (
        f"{found.device}: {found.name}, {format_size(found.memory_bytes)}; "
        f"a peer takes {format_size(found.usable_bytes)} of it unless told otherwise"
    )
    return Finding("device", Verdict.GOOD, said)


def _model(named: str) -> Finding:
    if not Path(named).expanduser().is_dir():
        return Finding("model", Verdict.WARNING, f"{named} is no folder; it is fetched on joining")
    from helix_p2p.engine.architecture import read_architecture

    architecture, _ = read_architecture(Path(named).expanduser())
    said = f"{named}: {architecture.layer_count} layers, d_model {architecture.d_model}"
    return Finding("model", Verdict.GOOD, said)


def _state_dir(path: Path) -> Finding:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        advice = "check its permissions, or choose another --state-dir"
        return Finding("state folder", Verdict.BAD, f"{existing} cannot be written", advice)
    if existing != path:
        return Finding("state folder", Verdict.GOOD, f"{path} will be made")
    key = path / "identity.key"
    if key.exists() and key.stat().st_mode & 0o077:
        advice = f"chmod 600 {key}"
        return Finding("state folder", Verdict.WARNING, f"others may read {key}", advice)
    return Finding("state folder", Verdict.GOOD, str(path))


def _disk(state_dir: Path) -> Finding:
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache"))
    verdict, parts = Verdict.GOOD, []
    for folder in (state_dir, cache):
        existing = next(it for it in (folder.absolute(), *folder.absolute().parents) if it.exists())
        free_bytes = shutil.disk_usage(existing).free
        parts.append(f"{format_size(free_bytes)} free for {folder}")
        if free_bytes < LEAST_FREE_DISK_BYTES:
            verdict = Verdict.WARNING
    advice = "a model's files may not fit; set HF_HOME elsewhere" if verdict != Verdict.GOOD else ""
    return Finding("disk", verdict, ", ".join(parts), advice)


def _port(host: str, port: int) -> Finding:
    check_port_is_free(host, port)
    said = f"{host} port {port} is free" if port else f"{host}, any free port"
    return Finding("port", Verdict.GOOD, said)


def _invite(text: str) -> Finding:
    invite = read_invite(text)
    invite.check(time.time())
    granted = invite.granted()
    where = f"into the swarm {invite.swarm} of {invite.model_name}"
    if granted is None:
        return Finding(
            "invite", Verdict.WARNING, f"{where}; it is open: nobody vouches for anybody"
        )
    if Role.PEER not in granted.roles:
        advice = "ask for one with the role peer"
        return Finding("invite", Verdict.BAD, f"only for {', '.join(granted.roles)}", advice)
    said = f"{where}, as {', '.join(granted.roles)}, until {utc(granted.expires_unix_s)}"
    return Finding("invite", Verdict.GOOD, said)


def _dial(address: str | None) -> Finding:
    """Start the daemon for real, and reach a bootstrap node with it where there is one to reach."""
    from helix_p2p.net.libp2p import Libp2pTransport

    async def reach() -> float:
        began_s = time.monotonic()
        transport = await Libp2pTransport.start(
            Identity(secrets.token_bytes(32)),
            bootstrap=() if address is None else (address,),
            bootstrap_timeout_s=DIAL_TIMEOUT_S,
        )
        taken_s = time.monotonic() - began_s
        await transport.close()
        return taken_s

    taken_s = run_once(reach())
    if address is None:
        return Finding("libp2p", Verdict.GOOD, f"the daemon starts ({format_duration(taken_s)})")
    return Finding("bootstrap", Verdict.GOOD, f"{address} answers ({format_duration(taken_s)})")
