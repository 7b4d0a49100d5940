"""Real processes on loopback: bootstrap nodes and peers as users start them.

Everything is started through the installed commands, watched through their `--json` events, and
stopped by its own process id. At the end the lab checks that nothing is left, daemons included.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from helix_p2p.net.daemon_start import sweep_folders

BIN = Path(sys.executable).parent
GRACE_S = 20.0
Event = dict[str, Any]


@dataclass
class Command:
    """A running command and what it said."""

    name: str
    process: asyncio.subprocess.Process
    events: list[Event] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    async def wait_for(
        self, what: Callable[[Event], bool], timeout_s: float = 60.0, after: int = 0
    ) -> Event:
        """The first event (from number `after` on) that fits; fails loudly when none comes."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self.changed.clear()
                    for event in self.events[after:]:
                        if what(event):
                            return event
                    if self.process.returncode is not None:
                        raise AssertionError(f"{self.name} ended:\n{self.transcript()}")
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} never said it:\n{self.transcript()}") from None

    def transcript(self) -> str:
        lines = [json.dumps(event) for event in self.events[-30:]] + self.errors[-30:]
        return "\n".join(lines)

    async def _read(self, stream: asyncio.StreamReader, *, events: bool) -> None:
        while line := (await stream.readline()).decode(errors="replace").rstrip():
            if events and line.startswith("{"):
                self.events.append(json.loads(line))
            else:
                self.errors.append(line)
            self.changed.set()
        self.changed.set()

    def family(self) -> list[psutil.Process]:
        """The process and everything it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        return []


class Lab:
    """A swarm of processes."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.commands: dict[str, Command] = {}
        self.invite = ""
        self.peer_command: tuple[str, ...] = ("helix-peer",)
        self.environment: dict[str, str] = {}
        self.prefix: Callable[[str], tuple[str, ...]] = lambda _name: ()
        self.host: Callable[[str], str] = lambda _name: "127.0.0.1"
        self._memory_mb: dict[str, int] = {}
        self._family: list[psutil.Process] = []

    async def start(self, name: str, *arguments: str, **environment: str) -> Command:
        """Start one of the project's commands."""
        process = await asyncio.create_subprocess_exec(
            *self.prefix(name),
            str(BIN / arguments[0]),
            *arguments[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "XDG_STATE_HOME": str(self.folder / "xdg-state"),
                **self.environment,
                **environment,
            },
            start_new_session=True,
            limit=1024 * 1024,
        )
        command = self.commands[name] = Command(name, process)
        assert process.stdout is not None
        assert process.stderr is not None
        command.readers = [
            asyncio.create_task(command._read(process.stdout, events=True)),
            asyncio.create_task(command._read(process.stderr, events=False)),
        ]
        return command

    async def bootstrap(self, *options: str, name: str = "bootstrap") -> Command:
        """Start a bootstrap node and keep its invite."""
        command = await self.start(
            name,
            "helix-bootstrap",
            "run",
            "--json",
            f"--host={self.host(name)}",
            "--port=0",
            f"--model={self.model}",
            f"--state-dir={self.folder / name}",
            *options,
        )
        event = await command.wait_for(lambda e: e.get("invite"))
        self.invite = self.invite or event["invite"]
        return command

    async def peer(self, name: str, memory_mb: int, *options: str) -> Command:
        """Start a peer; it is not awaited."""
        self._memory_mb[name] = memory_mb
        return await self.start(
            name,
            *self.peer_command,
            "join",
            self.invite,
            "--json",
            f"--host={self.host(name)}",
            f"--model={self.model}",
            f"--max-memory={memory_mb}MB",
            "--threads=1",
            "--device=cpu",
            f"--public-name={name}",
            f"--state-dir={self.folder / name}",
            *options,
        )

    def give_ranges(self, ranges: Mapping[int, str]) -> None:
        """Let peers that are started from now on plan these layers for these memories, in MB."""
        named = ",".join(f"{memory}:{layers}" for memory, layers in ranges.items())
        self.environment["HELIX_TEST_RANGES"] = named
        self.peer_command = ("python", str(Path(__file__).with_name("steady_peer.py")))

    async def guest(self) -> str:
        """An invite for clients."""
        event = await self.commands["bootstrap"].wait_for(lambda e: e.get("guest_invite"))
        return str(event["guest_invite"])

    async def restart(self, name: str) -> Command:
        """Start a peer that was killed once more, from its own state folder."""
        await self.commands[name].process.wait()
        return await self.peer(name, self._memory_mb[name])

    def planner(self) -> str:
        """The peer whose word on planning came last."""
        words = [
            (event["unix_s"], name, event["planning"])
            for name, command in self.commands.items()
            if command.process.returncode is None
            for event in command.events
            if event["event"] == "planner"
        ]
        return max(word for word in words if word[2])[1]

    def peer_id(self, name: str) -> str:
        """A peer's id, once it has joined."""
        return next(e["peer"] for e in self.commands[name].events if e["event"] == "joined")

    def name_of(self, peer: str) -> str:
        """Whose id this is."""
        for name, command in self.commands.items():
            if any(e["event"] == "joined" and e["peer"] == peer for e in command.events):
                return name
        raise AssertionError(f"nobody joined as {peer}")

    async def serving(self, *names: str, timeout_s: float = 120.0) -> None:
        """Wait until each of the peers has served some layers."""
        for name in names:
            await self.commands[name].wait_for(
                lambda e: e.get("event") == "state" and e.get("state") == "serving", timeout_s
            )

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a command's own process only."""
        command = self.commands[name]
        self._family += command.family()
        command.process.send_signal(how)

    async def stop(self, name: str, timeout_s: float = GRACE_S) -> int:
        """Ctrl-C, and wait for the end."""
        command = self.commands[name]
        self._family += command.family()
        with contextlib.suppress(ProcessLookupError):
            command.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(timeout_s):
            return await command.process.wait()

    async def close(self) -> None:
        """Stop everything and check that nothing stays."""
        for command in self.commands.values():
            self._family += command.family()
        alive = [c for c in self.commands.values() if c.process.returncode is None]
        for command in alive:
            with contextlib.suppress(ProcessLookupError):
                command.process.send_signal(signal.SIGCONT)
                command.process.send_signal(signal.SIGINT)
        for command in alive:
            try:
                async with asyncio.timeout(GRACE_S):
                    await command.process.wait()
            except TimeoutError:
                command.process.kill()
                await command.process.wait()
        for command in self.commands.values():
            await asyncio.gather(*command.readers, return_exceptions=True)
        _, left = await asyncio.to_thread(psutil.wait_procs, self._family, 15)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        names = [process.name() for process in left if process.is_running()]
        sweep_folders()  # of those that were killed, which the next start would do
        assert not names, f"left behind: {names}"


@contextlib.asynccontextmanager
async def lab(folder: Path, model: Path) -> AsyncIterator[Lab]:
    """A lab that is taken down whatever happens; on failure every transcript is shown."""
    made = Lab(folder, model)
    try:
        yield made
    except BaseException:
        for command in made.commands.values():
            print(f"--- {command.name}\n{command.transcript()}", file=sys.stderr)
        raise
    finally:
        await made.close()
