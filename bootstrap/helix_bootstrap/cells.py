"""`helix-bootstrap cells`: in how many cells the swarm lives.

As with revocations, the command signs the number with the swarm's root key and leaves it in the
state folder, where the running node takes it up within a second or two; a node that does not run
takes it up at its next start.

Always: a later word replaces an earlier one; where a node runs, saying the number that holds
changes nothing; nobody is moved into tiny cells by a slip of the finger.
"""

import json
import time
from pathlib import Path

import click
import msgspec

from helix_bootstrap.invites import root_of
from helix_p2p.cli.control import ask_status
from helix_p2p.cli.units import format_size
from helix_p2p.errors import ConfigError, HelixError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, open_cells, write_cells
from helix_p2p.membership.cells import CELL_SPARSE
from helix_p2p.node.state import CELLS_FILE, change_cells, read_value
from helix_p2p.node.status import CellStatus, NodeStatus

_OPEN = "this swarm is open, so it has one cell: nobody can say for all that it has more"


def print_cells(state_dir: Path, *, as_json: bool) -> None:
    """Show how many cells there are.

    Raises:
        ConfigError: No invite-only swarm has its root here.
    """
    root, swarm = root_of(state_dir, _OPEN)
    _print(_read(read_value(state_dir / CELLS_FILE, Signed), swarm, root), as_json=as_json)


def set_cells(state_dir: Path, number: int, *, force: bool, as_json: bool) -> None:
    """Sign and leave a number; say what follows.

    Args:
        state_dir: A bootstrap node's.
        number: Of cells.
        force: Even if cells come out small.
        as_json: For programs.

    Raises:
        ConfigError: No invite-only swarm has its root here, or the cells would be small.
    """
    root, swarm = root_of(state_dir, _OPEN)
    said = _read(read_value(state_dir / CELLS_FILE, Signed), swarm, root)
    lent = _lent(state_dir)
    follows = "nothing changed"
    if lent is None or said.cells != number:  # a node that runs knows the latest word
        if lent is not None and number > 1 and not force:
            _check_worth(lent, number)

        def change(held: Signed | None) -> Signed:
            # The clock keeps words apart that two bootstrap nodes of one swarm say.
            serial = max(_read(held, swarm, root).serial + 1, int(time.time()))
            return write_cells(root, CellCount(serial, number))

        said = _read(change_cells(state_dir, change), swarm, root)
        follows = _what_follows(lent, number)
    _print(said, as_json=as_json)
    if not as_json:
        click.echo(follows, err=True)


def _print(said: CellCount, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"serial": said.serial, "cells": said.cells}))
    else:
        click.echo(f"{said.cells} {'cell' if said.cells == 1 else 'cells'}")


def _read(record: Signed | None, swarm: str, root: Identity) -> CellCount:
    if record is None or record.swarm != swarm:
        return CellCount(0, 1)
    return open_cells(record, swarm, root.public_key)


def _lent(state_dir: Path) -> CellStatus | None:
    """What all peers lend together, as the node sees it that runs here; None where none does."""
    try:
        status = msgspec.convert(ask_status(state_dir), NodeStatus)
    except (HelixError, msgspec.ValidationError):
        return None
    own = [member for member in status.members if member.memory_bytes > 0]
    return CellStatus(
        cell=0,
        peers=len(own) + sum(other.peers for other in status.elsewhere),
        serving=0,
        memory_bytes=sum(member.memory_bytes for member in own)
        + sum(other.memory_bytes for other in status.elsewhere),
    )


def _check_worth(lent: CellStatus, number: int) -> None:
    if lent.peers < number * CELL_SPARSE:
        each = format_size(lent.memory_bytes // number)
        raise ConfigError(
            f"{lent.peers} peers in {number} cells are {lent.peers / number:.1f} in each, with "
            f"{each} for the whole model; a cell wants some hundreds",
            hint="say it with --force if that is what you want",
        )


def _what_follows(lent: CellStatus | None, number: int) -> str:
    if lent is None:
        return "no bootstrap node runs here now; the swarm hears of it when it runs again"
    return (
        "everyone hears of it within minutes, and who has to move does so within a quarter of an "
        f"hour; each cell then has about {format_size(lent.memory_bytes // number)} for the whole "
        "model"
    )
