"""Inputs as trees: the form in which structured bytes are mutated, and signed afterwards.

A signature over a mutated body would never hold, and all that lies behind it would never run. So an
input keeps signed records unsigned: `{"~": [kind, key, swarm, body]}` stands for the body under the
signature of key number `key`, and `{"=": tree}` for the encoded bytes of a tree. `sealed` puts the
signatures on, as an attacker would who holds these keys.

Always: `sealed` takes any bytes; what is no such tree is passed on as it is.
"""

from functools import cache
from typing import Any

import msgspec

from helix_p2p import codec
from helix_p2p.identity import Identity, Signed

KEYS = 8
SIGNED = "~"
ENCODED = "="
_RECORD = {"kind", "swarm", "body", "public_key", "signature"}
_DEEPEST = 60
_LONG = 2000


@cache
def key(number: int) -> Identity:
    """One of the keys that an attacker may hold; number 0 is a swarm's root."""
    return Identity(codec.sha256(f"fuzz {number % KEYS}".encode()))


@cache
def _key_numbers() -> dict[bytes, int]:
    return {key(number).public_key: number for number in range(KEYS)}


def opened(value: object) -> bytes:
    """The tree of a typed value, with its signed records open."""
    return codec.encode(_open(msgspec.msgpack.decode(codec.encode(value))))


def sealed(data: bytes) -> bytes:
    """What an attacker sends: the tree with its records signed."""
    try:
        tree = msgspec.msgpack.decode(data)
        return codec.encode(_seal(tree, 0))
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return data


def _open(node: Any) -> Any:
    if isinstance(node, list):
        return [_open(item) for item in node]
    if isinstance(node, dict):
        if node.keys() >= _RECORD and node["public_key"] in _key_numbers():
            number = _key_numbers()[node["public_key"]]
            return {SIGNED: [node["kind"], number, node["swarm"], _open_bytes(node["body"])]}
        return {name: _open(item) for name, item in node.items()}
    if isinstance(node, bytes) and len(node) > 64:
        tree = _open_bytes(node)
        return node if tree is node else {ENCODED: tree}
    return node


def _open_bytes(data: bytes) -> Any:
    try:
        tree = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, ValueError):
        return data
    return _open(tree) if isinstance(tree, dict) else data


def _seal(node: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return node
    if isinstance(node, list):
        if len(node) > _LONG and not isinstance(node[0], list | dict):
            return node  # a bomb of leaves
        return [_seal(item, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {SIGNED}:
        parts = node[SIGNED]
        if isinstance(parts, list) and len(parts) == 4:
            return _signed(parts, depth)
    if node.keys() == {ENCODED}:
        return codec.encode(_seal(node[ENCODED], depth + 1))
    return {name: _seal(item, depth + 1) for name, item in node.items()}


def _signed(parts: list[Any], depth: int) -> Any:
    kind, number, swarm, body = parts
    if not isinstance(body, bytes):
        body = codec.encode(_seal(body, depth + 1))
    if not (isinstance(kind, str) and isinstance(swarm, str) and isinstance(number, int)):
        return {"kind": kind, "swarm": swarm, "body": body, "public_key": number, "signature": b""}
    record: Signed = key(number).sign(kind, swarm, body)
    return {name: getattr(record, name) for name in sorted(_RECORD)}
