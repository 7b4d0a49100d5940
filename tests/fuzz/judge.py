"""What must hold of a decoder for every input: only its errors, bounded memory and time, canonical.

Time is the thread's CPU time, since a busy machine stretches the clock; what seems slow is measured
twice more. Memory is what Python allocates while the decoder runs (tracemalloc), beyond its input.
"""

import time
import tracemalloc
from dataclasses import dataclass
from typing import Any

from tests.fuzz.decoder import Decoder

MEMORY_FACTOR = 4
LEAST_MEMORY_BYTES = 512 * 1024
"""What even a small input may take: error messages, tables of a few peers."""


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        decoder: Whose.
        what: `exception`, `memory`, `time` or `canonical`.
        where: Tells findings apart: the exception's class and its line.
        detail: For people.
        data: The input.
    """

    decoder: str
    what: str
    where: str
    detail: str
    data: bytes


@dataclass
class Judge:
    """Runs a decoder and collects what must not be, each once.

    Args:
        decoder: Whom.

    Attributes:
        inputs: How many were read.
        accepted: How many of them were valid.
        worst_s: Most CPU time of any.
    """

    decoder: Decoder
    inputs: int = 0
    accepted: int = 0
    worst_s: float = 0.0

    def __post_init__(self) -> None:
        self.findings: dict[tuple[str, str], Finding] = {}
        for seed in self.decoder.seeds():  # imports and caches are nobody's input
            self._read(self.decoder.prepare(seed))

    def __call__(self, data: bytes, *, memory: bool = False) -> None:
        """Read one input; `memory` measures that too, which is slower."""
        decoder, self.inputs = self.decoder, self.inputs + 1
        prepared = decoder.prepare(data)
        began_s = time.thread_time()
        value, error = self._read(prepared)
        took_s = time.thread_time() - began_s
        if took_s > decoder.takes_s:
            took_s = min(took_s, *(self._seconds(decoder.prepare(data)) for _ in range(2)))
            if took_s > decoder.takes_s:
                self._found("time", "", f"{took_s * 1000:.0f} ms", data)
        self.worst_s = max(self.worst_s, took_s)
        if error is not None and not isinstance(error, decoder.raises):
            self._found("exception", _place(error), f"{type(error).__name__}: {error}"[:300], data)
        if error is None:
            self.accepted += 1
            if decoder.again is not None and value is not None:
                self._check_canonical(value, data)
        if memory:
            self._check_memory(decoder.prepare(data), data)

    def _read(self, prepared: Any) -> tuple[Any, BaseException | None]:
        try:
            return self.decoder.read(prepared), None
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # noqa: BLE001 - any is a finding, also a library's panic
            return None, error

    def _seconds(self, prepared: Any) -> float:
        began_s = time.thread_time()
        self._read(prepared)
        return time.thread_time() - began_s

    def _check_canonical(self, value: Any, data: bytes) -> None:
        assert self.decoder.again is not None
        try:
            once, twice = self.decoder.again(value)
        except Exception as error:  # noqa: BLE001 - what was decoded must encode
            self._found("canonical", _place(error), f"{type(error).__name__}: {error}"[:300], data)
            return
        if once != twice:
            self._found("canonical", "", f"{once[:60]!r} became {twice[:60]!r}", data)

    def _check_memory(self, prepared: Any, data: bytes) -> None:
        tracemalloc.start()
        try:
            self._read(prepared)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        most = self.decoder.memory_bytes or MEMORY_FACTOR * self.decoder.limit_bytes
        given = prepared if isinstance(prepared, bytes) else data
        most = max(most, LEAST_MEMORY_BYTES) + len(given)
        if peak_bytes > most:
            size = f"{peak_bytes} bytes, {peak_bytes / self.decoder.limit_bytes:.1f} × the limit"
            self._found("memory", "", f"{size}, for {len(data)} bytes of input", data)

    def _found(self, what: str, where: str, detail: str, data: bytes) -> None:
        known = self.findings.get((what, where))
        if known is None or len(data) < len(known.data):
            self.findings[what, where] = Finding(self.decoder.name, what, where, detail, data)


def _place(error: BaseException) -> str:
    """Class and innermost line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__} at {at}"
