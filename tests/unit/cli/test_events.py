"""Events of a running node: one line each, as words or as JSON."""

import asyncio
import json
from dataclasses import replace

import pytest

from helix_p2p.cli.events import EventPrinter, _progress
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.status import NodeStatus

STATUS = NodeStatus("peer", "me", "swarm", True, "tiny", "ab", 8, "standby", detail="waits")
EVENT = NodeEvent("state", "serving [0, 4) of [red]tiny", {"state": "serving", "serving": (0, 4)})


def test_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    EventPrinter(as_json=True).show(EVENT)
    said = json.loads(capsys.readouterr().out)
    assert (said["event"], said["state"], said["serving"]) == ("state", "serving", [0, 4])
    assert said["text"] == EVENT.text


def test_event_is_one_line_for_people_with_nothing_read_as_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    EventPrinter(as_json=False).show(replace(EVENT, text=EVENT.text + " " * 3 + "x" * 300))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "serving [0, 4) of [red]tiny" in out


async def test_progress_is_not_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    async with asyncio.timeout(5):
        await EventPrinter(as_json=False).follow(lambda: STATUS)
        await EventPrinter(as_json=True).follow(lambda: STATUS)
    assert capsys.readouterr().out == ""


def test_progress_says_what_a_person_waits_for() -> None:
    loading = replace(STATUS, state="loading", to_hold=(4, 8), loaded_layers=1)
    assert _progress(loading) == (4, 1, "1 of 4 layers")
    serving = replace(STATUS, state="serving", stage_sessions=1, kv_used=0.25)
    assert _progress(serving) == (1.0, 0.25, "1 session, KV cache 25%")
    assert _progress(STATUS) == (None, 0.0, "waits")
    draining = replace(STATUS, state="draining", stage_sessions=2)
    assert _progress(draining) == (None, 0.0, "2 sessions to finish")
