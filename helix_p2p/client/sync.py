"""The same client without `await`: for scripts, notebooks and threads.

A `SyncSwarm` runs a `Swarm` on an event loop in a thread of its own, so it also works where a loop
already runs (notebooks). Calls may come from any thread, many at once.

Always: Ctrl-C (or any exception in the caller's thread) during a call cancels what the call was
waiting for and waits until that has ended; what was started ends with `close`, with the `with`
statement, or at the latest with the interpreter.
"""

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

from helix_p2p.client.chat_template import Message
from helix_p2p.client.results import ChatOptions, Completion, Options, Piece
from helix_p2p.client.stream import TextStream
from helix_p2p.client.swarm import CONNECT_S, Swarm
from helix_p2p.errors import Cancelled
from helix_p2p.identity import Identity
from helix_p2p.net.event_loop import new_event_loop
from helix_p2p.net.transport import Transport
from helix_p2p.session.messages import TokenTrace

T = TypeVar("T")

CLOSE_S = 10.0
"""How long closing may take before the thread is left to the interpreter's end."""


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = new_event_loop()
        self._thread = threading.Thread(target=self._main, name="helix-client", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    @property
    def current(self) -> bool:
        """Whether the caller is on this very thread."""
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it here."""
        if self.current or not self._thread.is_alive():
            work.close()
            raise RuntimeError("this SyncSwarm is closed, or used from its own event loop")
        result: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda task: _hand_over(task, result))

        self._loop.call_soon_threadsafe(start)
        try:
            return result.result()
        except BaseException:
            if not result.done():  # this thread was interrupted: end the work, then go on
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108
                with contextlib.suppress(TimeoutError):
                    result.exception(CLOSE_S)
            raise

    def stop(self) -> None:
        """End the loop, and the thread with it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        if not self.current:
            self._thread.join(CLOSE_S)


def _hand_over(task: asyncio.Task[T], result: "Future[T]") -> None:
    if task.cancelled():
        result.set_exception(Cancelled("cancelled, because the client was closed"))
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(task.result())


def _shut_down(thread: _LoopThread, swarm: Swarm) -> None:
    if thread.current:  # the garbage collector may run anywhere
        asyncio.ensure_future(swarm.aclose()).add_done_callback(lambda _: thread.stop())
        return
    with contextlib.suppress(Cancelled, TimeoutError):
        thread.run(asyncio.wait_for(swarm.aclose(), CLOSE_S))
    thread.stop()


class SyncTextStream:
    """An answer in the making: `for piece in stream`, then `stream.completion`."""

    def __init__(self, thread: _LoopThread, stream: TextStream) -> None:
        self._thread = thread
        self._stream = stream

    @property
    def completion(self) -> Completion:
        """The finished answer; see `TextStream.completion`."""
        return self._stream.completion

    @property
    def text(self) -> str:
        """All text so far."""
        return self._stream.text

    @property
    def traces(self) -> Sequence[tuple[float, TokenTrace]]:
        """Where the tokens' time went, if asked for; see `TextStream.traces`."""
        return self._stream.traces

    def collect(self) -> Completion:
        """Iterate to the end and give the whole answer; see `TextStream.collect`."""
        return self._thread.run(self._stream.collect())

    def close(self) -> None:
        """Cancel what is left of the generation; safe to call twice."""
        self._thread.run(self._stream.aclose())

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        piece = self._thread.run(self._next())
        if piece is None:
            raise StopIteration
        return piece

    async def _next(self) -> Piece | None:
        return await anext(self._stream, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class SyncSwarm:
    """A connection to one swarm and its model; made by `connect`, used as `with`."""

    def __init__(self, thread: _LoopThread, swarm: Swarm) -> None:
        self._thread = thread
        self._swarm = swarm
        self._finalizer = weakref.finalize(self, _shut_down, thread, swarm)

    @classmethod
    def connect(
        cls,
        way_in: str | Sequence[str],
        *,
        model: str | Path | None = None,
        transport: Transport | None = None,
        identity: Identity | None = None,
        cache: Path | None = None,
        timeout_s: float = CONNECT_S,
    ) -> "SyncSwarm":
        """Connect now; arguments and errors as `Swarm.connect`.

        Args:
            way_in: An invite, or multiaddrs of any member of an open swarm.
            model: A folder with the model's tokenizer, to be spared its transfer.
            transport: Used instead of libp2p; not bound to another event loop.
            identity: The transport's key.
            cache: Where the model's small files are kept.
            timeout_s: For connecting, the model's files included.
        """
        swarm = Swarm.connect(
            way_in,
            model=model,
            transport=transport,
            identity=identity,
            cache=cache,
            timeout_s=timeout_s,
        )
        thread = _LoopThread()
        try:
            thread.run(swarm.__aenter__())
        except BaseException:
            _shut_down(thread, swarm)
            raise
        return cls(thread, swarm)

    @property
    def swarm(self) -> Swarm:
        """The asynchronous one behind it, for looking at plan, members and tokenizer."""
        return self._swarm

    def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Completion:
        """Complete a prompt; see `Swarm.generate`."""
        return self._thread.run(self._swarm.generate(prompt, **options))

    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> SyncTextStream:
        """Complete a prompt, piece by piece; see `Swarm.stream`."""

        async def start() -> TextStream:
            return self._swarm.stream(prompt, **options)

        return SyncTextStream(self._thread, self._thread.run(start()))

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """Answer a conversation; see `Swarm.chat`."""
        return self._thread.run(self._swarm.chat(messages, **options))

    def chat_stream(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> SyncTextStream:
        """Answer a conversation, piece by piece; see `Swarm.chat_stream`."""

        async def start() -> TextStream:
            return self._swarm.chat_stream(messages, **options)

        return SyncTextStream(self._thread, self._thread.run(start()))

    def refresh(self) -> None:
        """Ask for the plan and the members now."""
        self._thread.run(self._swarm.refresh())

    def close(self) -> None:
        """End everything; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
