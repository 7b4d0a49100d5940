"""What people are shown of other machines."""

import contextlib
import io
import unicodedata
from typing import Any

from helix_p2p.cli.status import print_status
from helix_p2p.errors import HelixError
from helix_p2p.node.status import STATUS_LIMIT_BYTES, decode_status, encode_status, status_object
from tests.fuzz import seeds
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutation import (
    mutate_json,
)


def _read_status(data: bytes) -> Any:
    return decode_status(data)


def _status_again(value: Any) -> tuple[bytes, bytes]:
    once = encode_status(value)
    return once, encode_status(decode_status(once))


CONTROLS, FINE = {"Cc", "Cf", "Cs"}, "\n\u200c\u200d"


def _read_answer(data: bytes) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_status(status_object(data), as_json=False)
    odd = [c for c in shown.getvalue() if unicodedata.category(c) in CONTROLS and c not in FINE]
    assert not odd, f"a terminal would be sent {odd[:3]!r}"


DRAWN_S = 0.5
"""For a table of a status on a terminal, whose rows are bounded; each takes half a millisecond."""


DECODERS = (
    Decoder(
        "status",
        _read_status,
        lambda: [encode_status(seeds.status())],
        STATUS_LIMIT_BYTES,
        mutate=mutate_json,
        again=_status_again,
    ),
    Decoder(
        "control-answer",
        _read_answer,
        lambda: [encode_status(seeds.status())],
        STATUS_LIMIT_BYTES,
        (HelixError,),
        mutate=mutate_json,
        takes_s=DRAWN_S,
    ),
)
