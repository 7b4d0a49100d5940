"""`helix-bootstrap cells`: in how many cells the swarm lives.

As with revocations, the command signs the number with the swarm's root key and leaves it in the
state folder, where the running node takes it up within a second or two; a node that does not run
takes it up at its next start.

Always: a later word replaces an earlier one; saying the number that holds changes nothing.
"""

import json
import time
from pathlib import Path

import click

from helix_bootstrap.invites import root_of
from helix_p2p.cli.control import ask_status
from helix_p2p.cli.units import format_size
from helix_p2p.errors import HelixError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, open_cells, write_cells
from helix_p2p.node.state import CELLS_FILE, change_cells, read_value

_OPEN = "this swarm is open, so it has one cell: nobody can say for all that it has more"


def print_cells(state_dir: Path, *, as_json: bool) -> None:
    """Show how many cells there are.

    Raises:
        ConfigError: No invite-only swarm has its root here.
    """
    root, swarm = root_of(state_dir, _OPEN)
    _print(_read(read_value(state_dir / CELLS_FILE, Signed), swarm, root), as_json=as_json)


def set_cells(state_dir: Path, number: int, *, as_json: bool) -> None:
    """Sign and leave a number; say what follows.

    Raises:
        ConfigError: No invite-only swarm has its root here.
    """
    root, swarm = root_of(state_dir, _OPEN)
    before = _read(read_value(state_dir / CELLS_FILE, Signed), swarm, root)

    def change(held: Signed | None) -> Signed:
        nonlocal before
        before = _read(held, swarm, root)
        if held is not None and before.cells == number:
            return held
        # The clock keeps words apart that two bootstrap nodes of one swarm say.
        return write_cells(root, CellCount(max(before.serial + 1, int(time.time())), number))

    if before.cells != number:
        change_cells(state_dir, change)
    after = _read(read_value(state_dir / CELLS_FILE, Signed), swarm, root)
    _print(after, as_json=as_json)
    if not as_json:
        click.echo(_what_follows(state_dir, before.cells, number), err=True)


def _print(said: CellCount, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"serial": said.serial, "cells": said.cells}))
    else:
        click.echo(f"{said.cells} {'cell' if said.cells == 1 else 'cells'}")


def _read(record: Signed | None, swarm: str, root: Identity) -> CellCount:
    if record is None or record.swarm != swarm:
        return CellCount(0, 1)
    return open_cells(record, swarm, root.public_key)


def _what_follows(state_dir: Path, before: int, number: int) -> str:
    if before == number:
        return "nothing changed"
    try:
        status = ask_status(state_dir)
    except HelixError:
        return "no bootstrap node runs here now; the swarm hears of it when it runs again"
    lend = [*status.get("members", ()), *status.get("elsewhere", ())]
    memory_bytes = sum(one.get("memory_bytes", 0) for one in lend) / number
    return (
        "everyone hears of it within minutes, and who has to move does so within a quarter of an "
        f"hour; each cell then has about {format_size(int(memory_bytes))} for the whole model"
    )
