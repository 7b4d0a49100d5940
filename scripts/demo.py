"""The demo: real commands as real processes on loopback, and a client that talks with them.

Always: everything that was started is stopped again, in any end, daemons too; nothing is written
outside one temporary folder and the model cache.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.markup import escape

from helix_p2p import Completion, Swarm
from helix_p2p.cli.control import ask_status
from helix_p2p.cli.shown import harmless
from helix_p2p.cli.status import print_status
from helix_p2p.engine.smollm2 import fetch_smollm2
from helix_p2p.errors import HelixError
from helix_p2p.net.daemon_start import sweep_folders

BIN = Path(sys.executable).parent
PROMPT = "Why do people share their computers with strangers? Answer in a few sentences."
MEMORY_MB = (330, 380, 450)
"""None of them holds the model (652 MB in float32, the embedding counted at both ends)."""
NAMES = ("attic", "desk", "garage", "kitchen", "studio", "cellar", "porch", "shed")
MAX_TOKENS = 96
KILL_AFTER_TOKENS = 24
READY_S = 180.0
STOP_S = 20.0

console = Console(highlight=False, soft_wrap=True)


@dataclass
class Running:
    """A command that was started here."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    reader: asyncio.Task[None] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def last(self, event: str) -> dict[str, Any]:
        """The newest event of this name, empty when there is none."""
        return next((it for it in reversed(self.events) if it["event"] == event), {})

    def check(self) -> None:
        """Fail with the command's own words when it has ended."""
        if self.process.returncode is not None:
            words = self.log.read_text().strip().splitlines() or ["it said nothing"]
            raise HelixError(
                f"{self.name} ended with status {self.process.returncode}: {words[-1]}"
            )


class Demo:
    """One bootstrap node, some peers, and what they say."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.commands: list[Running] = []
        self.answering = False
        self._kept: list[str] = []
        self._family: set[psutil.Process] = set()

    async def start(self, name: str, *command: str) -> Running:
        """Start a command of ours in a session of its own, so that Ctrl-C reaches only the demo."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                str(BIN / command[0]),
                *command[1:],
                "--json",
                "--host=127.0.0.1",
                f"--model={self.model}",
                f"--state-dir={self.folder / name}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
            )
        running = Running(name, process, log)
        running.reader = asyncio.create_task(self._read(running))
        self.commands.append(running)
        return running

    async def _read(self, running: Running) -> None:
        assert running.process.stdout is not None
        async for line in running.process.stdout:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                running.events.append(said)
                if running.name != "bootstrap" and said["event"] in ("measured", "state"):
                    self.tell(f"  [bold]{running.name:<8}[/] {escape(said['text'])}")

    def tell(self, line: str) -> None:
        """Print a line, or keep it until the answer that is being printed is whole."""
        if self.answering:
            self._kept.append(line)
        else:
            console.print(line)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """An answer is being printed."""
        self.answering = True
        try:
            yield
        finally:
            self.answering = False
            console.print()
            for line in self._kept:
                console.print(line)
            self._kept.clear()

    async def until(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait for a condition.

        Raises:
            HelixError: A command ended, or it took too long.
        """
        deadline_s = time.monotonic() + READY_S
        while not ready():
            for running in self.commands:
                running.check()
            if time.monotonic() > deadline_s:
                detail = self.commands[0].last("waiting").get("text", "see --verbose")
                raise HelixError(f"{what} did not happen within {READY_S:.0f} s ({detail})")
            await asyncio.sleep(0.1)

    def serves_all(self) -> bool:
        """Whether the peers together serve every layer and none is still loading."""
        status = self.status()
        held: set[int] = set()
        for member in status["members"]:
            held.update(range(*member["serving"]) if member["serving"] else ())
        loading = any(member["state"] == "loading" for member in status["members"])
        return len(held) == status["layers"] and not loading

    def status(self) -> dict[str, Any]:
        """The swarm as the bootstrap node sees it."""
        return ask_status(self.folder / "bootstrap")

    def kill(self, peer: str) -> str:
        """Kill -9 the process of a peer id; its name."""
        for running in self.commands[1:]:
            if running.last("joined").get("peer") == peer:
                self._remember(running)
                running.process.kill()
                self.commands.remove(running)
                return running.name
        raise HelixError(f"no process here is the peer {peer}")

    def _remember(self, running: Running) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(running.process.pid)
            self._family.update((process, *process.children(recursive=True)))

    async def stop(self) -> None:
        """Stop the peers, then the bootstrap node; whatever does not go is killed."""
        for running in self.commands:
            self._remember(running)
        for group in (self.commands[1:], self.commands[:1]):
            for running in group:
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(signal.SIGINT)
            for running in group:
                try:
                    async with asyncio.timeout(STOP_S):
                        await running.process.wait()
                except TimeoutError:
                    running.process.kill()
                    await running.process.wait()
        _, alive = await asyncio.to_thread(psutil.wait_procs, list(self._family), STOP_S)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.asynccontextmanager
async def swarm(options: argparse.Namespace) -> AsyncIterator[tuple[Demo, str, str]]:
    """A running swarm that covers the model; gives it with its invite and its chat line."""
    say("the model, SmolLM2-135M-Instruct")
    model = await asyncio.to_thread(lambda: fetch_smollm2(say=lambda it: console.print(f"  {it}")))
    with tempfile.TemporaryDirectory(prefix="helix-demo-") as folder:
        demo = Demo(Path(folder), model)
        try:
            say("one bootstrap node")
            bootstrap = await demo.start("bootstrap", "helix-bootstrap", "run", "--port=0")
            await demo.until("the bootstrap node", lambda: bool(bootstrap.last("ready")))
            ready = bootstrap.last("ready")
            console.print(f"  {ready['text']}")
            say(f"{options.peers} peers, none of which holds the model alone")
            for number in range(options.peers):
                memory = MEMORY_MB[number % len(MEMORY_MB)]
                name = NAMES[number % len(NAMES)] + str(number // len(NAMES) or "")
                await demo.start(
                    name,
                    *("helix-peer", "join", ready["invite"], "--threads=1", "--device=cpu"),
                    *(f"--max-memory={memory}MB", f"--public-name={name}"),
                )
            await demo.until("a plan that covers the model", demo.serves_all)
            say("the plan")
            print_status(demo.status(), as_json=False)
            yield demo, ready["invite"], ready["chat"]
        finally:
            say("stopping everything")
            await demo.stop()
            sweep_folders()  # that of a peer killed with -9 would stay until the next start


async def answer(client: Swarm, prompt: str, demo: Demo, *, kill: bool = False) -> Completion:
    """Stream a chat answer to the screen; with `kill`, kill its last stage on the way."""
    seen = 0
    messages = [{"role": "user", "content": prompt}]
    with demo.quiet():
        async with client.chat_stream(messages, max_tokens=MAX_TOKENS) as stream:
            async for piece in stream:
                console.print(harmless(str(piece)), end="", markup=False, style="cyan")
                seen += len(piece.tokens)
                if kill and seen >= KILL_AFTER_TOKENS:
                    name = demo.kill(stream.session.pipeline[-1][0])
                    demo.tell(f"\n  [bold red]✂ kill -9 {name}[/], after token {seen}")
                    kill = False
    return stream.completion


def show(done: Completion, names: dict[str, str]) -> None:
    """What an answer took, and who made it."""
    stages = " ─▶ ".join(f"{names.get(peer, peer)} {layers}" for peer, layers in done.pipeline)
    usage = done.usage
    alone = "alone; the plan counts on many requests at once"
    speed = f"{usage.tokens_per_s:.1f} tokens/s" if usage.tokens_per_s else "too short to time"
    first = f"first token after {usage.first_token_s:.2f} s" if usage.first_token_s else ""
    console.print(f"\n  pipeline  {stages}\n  took      {first}, then {speed}", markup=False)
    console.print(
        f"            {usage.completion_tokens} tokens in {usage.total_s:.1f} s ({alone})"
    )


async def run(options: argparse.Namespace) -> None:
    """Show it all. The first signal stops everything, further ones do not disturb that."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping and task is not None:
            stopping = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    async with swarm(options) as (demo, invite, chat):
        names = {it.last("joined")["peer"]: it.name for it in demo.commands[1:]}
        say(f"you: {options.prompt}")
        async with Swarm.connect(invite, model=demo.model) as client:
            whole = await answer(client, options.prompt, demo)
            show(whole, names)
            if options.kill:
                say("the same again, and a peer of its pipeline is killed on the way")
                broken = await answer(client, options.prompt, demo, kill=True)
                show(broken, names)
                same = broken.tokens == whole.tokens
                console.print(f"  the answer is {'the same, token for token' if same else 'WRONG'}")
                if not same:
                    raise HelixError("the answer after the kill differs from the unbroken one")
        if options.keep:
            say("the swarm goes on until Ctrl-C; in another terminal")
            console.print(f"  {BIN / chat}", soft_wrap=True, markup=False)
            await asyncio.Event().wait()


def say(text: str) -> None:
    """A heading."""
    console.print(f"[bold green]==>[/] {text}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="./scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default=PROMPT, help="what to ask the model")
    parser.add_argument("--peers", type=int, metavar="N", help="how many peers (3; 4 with --kill)")
    parser.add_argument("--keep", action="store_true", help="leave the swarm up until Ctrl-C")
    parser.add_argument("--kill", action="store_true", help="kill -9 a peer in mid-answer")
    options = parser.parse_args()
    if options.peers is None:
        options.peers = 4 if options.kill else 3
    if options.peers < 2:
        parser.error("--peers: one of these peers alone cannot hold the model; take 2 or more")
    if options.kill and options.peers < 3:
        parser.error("--kill: those that are left must be able to hold the model; take 3 or more")
    try:
        asyncio.run(run(options))
    except asyncio.CancelledError:
        sys.exit(0 if options.keep else 130)
    except HelixError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
