"""Services end politely on the first signal, at once on the second, and always clean up."""

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

SERVICE = """
import asyncio, signal, sys
for number in (signal.SIGINT, signal.SIGHUP):  # whatever the tests were started with
    signal.signal(number, signal.SIG_IGN if number.name in sys.argv else signal.SIG_DFL)
from helix_p2p.cli.running import StopRequest, run_service

async def service(stop: StopRequest) -> None:
    try:
        if "start" in sys.argv:
            print("starting", flush=True)
            await asyncio.Event().wait()
        stop.begun()
        print("up", flush=True)
        await stop.wait()
        print("leaving", flush=True)
        if "hang" in sys.argv:
            await asyncio.Event().wait()
        print("left", flush=True)
    finally:
        print("cleaned", flush=True)

run_service(service)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVICE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(*arguments: str, ready: str, numbers: Sequence[signal.Signals]) -> tuple[str, int]:
    """What a service says after it was `ready` and got these signals, and its exit status."""
    with start(*arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{ready}\n"
        for number in numbers:
            process.send_signal(number)
        out, _ = process.communicate(timeout=20)
    return out, process.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_is_a_graceful_end(number: signal.Signals) -> None:
    assert end(ready="up", numbers=[number]) == ("leaving\nleft\ncleaned\n", 0)


def test_service_in_the_background_of_a_script_still_heeds_an_interrupt() -> None:
    said, _ = end("SIGINT", ready="up", numbers=[signal.SIGINT])
    assert said == "leaving\nleft\ncleaned\n"


def test_nohup_keeps_a_service_when_its_terminal_closes() -> None:
    said, _ = end("SIGHUP", ready="up", numbers=[signal.SIGHUP, signal.SIGTERM])
    assert said == "leaving\nleft\ncleaned\n", "one signal was heeded, not two"


def test_second_signal_ends_a_leave_that_hangs_and_still_cleans_up() -> None:
    with start("hang") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "leaving\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert out == "cleaned\n"
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_start_that_is_interrupted_is_cancelled_at_once() -> None:
    said, status = end("start", ready="starting", numbers=[signal.SIGTERM])
    assert said == "cleaned\n"
    assert status != 0
