"""How inputs are changed: bytes, trees (MessagePack, JSON), and text of lines or parts.

A mutator takes an input, a `Random` and the most bytes that the result may have, and gives another
input. Structured mutators fall back on bytes for what is not of their structure.

Always: the same input and the same chance give the same result.
"""

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from helix_p2p import codec

Mutator = Callable[[bytes, Random, int], bytes]

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 64, 255, 256, 1000, 65535, 2**31 - 1, 2**31, 2**32, 10**9, 10**12),
    *(2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63)),
    *(0.0, -0.0, 0.5, 1e-9, 5e-324, 1e300, 1.7e308, -1.0),
    *(float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    *("", " ", "a", "0", "\0", "\n", "\x1b[31m", "../..", "/", "é", "😀", "\u202e", "[bold]"),
    *("a" * 33, "x" * 300, "é" * 1000, "standby", "serving", "peer", "planner", "f32", "bf16"),
)
_BINARY = (b"", b"\0", b"\0" * 16, b"\xff" * 32, b"\x01" * 33, b"\0" * 64, b"x" * 4096)
_PIECES = (
    *(b"\x00", b"\xff", b"\x80", b"\x90", b"\xc0", b"\xc1", b"\xdd\xff\xff\xff\xff"),
    *(b"\xdc\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"),
    *(b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xc7\x0c\xff", b"\x91" * 40),
    *(b"[" * 200, b'{"a":' * 100, b"NaN", b"1e999", b"\\ud800", b'"\\u0000"', b"9" * 400),
)
MANY = 5_000
"""Longer lists are `bombs`, which no chance is needed to find."""


def mutate_bytes(data: bytes, random: Random, most_bytes: int) -> bytes:
    """Change a few bytes, move or drop a stretch, or put one in that often hurts."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        here = random.randrange(len(result) + 1)
        size = random.choice((1, 1, 2, 4, 8, 32))
        match random.randrange(7):
            case 0 if result:
                result[min(here, len(result) - 1)] ^= 1 << random.randrange(8)
            case 1 if result:
                result[min(here, len(result) - 1)] = random.randrange(256)
            case 2:
                del result[here : here + size]
            case 3:
                result[here:here] = random.randbytes(size)
            case 4:
                result[here:here] = random.choice(_PIECES)
            case 5:
                there = random.randrange(len(result) + 1)
                result[here:here] = result[there : there + size]
            case _:
                del result[here:]
    return bytes(result[:most_bytes])


def mutate_tree(data: bytes, random: Random, most_bytes: int) -> bytes:
    """Change a MessagePack tree."""
    if random.random() < 0.08:
        return mutate_bytes(data, random, most_bytes)
    try:
        tree = msgspec.msgpack.decode(data)
        return codec.encode(_changed(tree, random))[:most_bytes]
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
        return mutate_bytes(data, random, most_bytes)


def mutate_json(data: bytes, random: Random, most_bytes: int) -> bytes:
    """Change a JSON tree."""
    if random.random() < 0.2:
        return mutate_bytes(data, random, most_bytes)
    try:
        tree = _changed(json.loads(data), random)
        return json.dumps(tree, default=str).encode()[:most_bytes]
    except (ValueError, RecursionError, TypeError, OverflowError):
        return mutate_bytes(data, random, most_bytes)


_VALUE = re.compile(r"(?<==)[^\n=]+")
_LITERALS = (
    *('""', '"x"', "0", "1", "-1", "10000", "9" * 30, "9" * 5000, "1.5", "nan", "inf", "-inf"),
    *("true", "false", "[]", "{}", "[1]", "[[1, 2]]", "2026-11-22", "07:32:00", '"1 GB"', '"0 s"'),
    *('"5 Mb/s"', '"20 ms"', '"1e400 s"', '"9e307 GB"', '"\\u0000"', '"' + "a" * 5000 + '"'),
    *('"😀"', "[" * 300, "{ a = " * 60, "1e999", "0x" + "f" * 40, '["a", "a"]', '"../../x"'),
)


def mutate_lines(data: bytes, random: Random, most_bytes: int) -> bytes:
    """Change a TOML text: a value, or a line that is dropped, doubled or moved."""
    text = data.decode(errors="surrogateescape")
    lines = text.split("\n")
    here, there = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(8):
        case 0:
            del lines[here]
        case 1:
            lines.insert(there, lines[here])
        case 2:
            lines[here], lines[there] = lines[there], lines[here]
        case 3:
            return mutate_bytes(data, random, most_bytes)
        case _:
            found = [i for i, line in enumerate(lines) if _VALUE.search(line)]
            if found:
                chosen = random.choice(found)
                value = random.choice(_LITERALS)
                if random.random() < 0.3:
                    value = _VALUE.findall(lines[random.choice(found)])[0]
                lines[chosen] = _VALUE.sub(lambda _: f" {value}", lines[chosen], count=1)
    return "\n".join(lines).encode(errors="surrogateescape")[:most_bytes]


_PARTS = (
    *("ip4", "ip6", "dns4", "tcp", "udp", "quic-v1", "p2p", "p2p-circuit", "unix", "memory", "ws"),
    *("127.0.0.1", "::1", "256.1.1.1", "0", "65536", "99999", "-1", "", "example.org", "é", "\0"),
    *("12D3KooW", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "certhash", "x" * 300),
)


def mutate_path(data: bytes, random: Random, most_bytes: int) -> bytes:
    """Change one part of an address such as `/ip4/127.0.0.1/tcp/1/p2p/12D3…`."""
    if random.random() < 0.3:
        return mutate_bytes(data, random, most_bytes)
    parts = data.decode(errors="surrogateescape").split("/")
    here = random.randrange(len(parts))
    match random.randrange(4):
        case 0:
            del parts[here]
        case 1:
            parts.insert(here, random.choice(_PARTS))
        case 2:
            parts[here] = random.choice(_PARTS)
        case _:
            parts.insert(here, random.choice(parts))
    return "/".join(parts).encode(errors="surrogateescape")[:most_bytes]


def bombs(data: bytes, most_bytes: int) -> list[bytes]:
    """A tree with each kind of list in turn as long as fits, of the smallest entries possible.

    A list of one-byte entries becomes the most memory per byte that a decoder can be made to take.
    """
    found = []
    for path in dict.fromkeys(_list_paths(msgspec.msgpack.decode(data))):
        for smallest in (_least, lambda _: 0, lambda _: ""):
            tree = msgspec.msgpack.decode(data)
            holder, name = _at(tree, path)
            entries = holder[name]
            entry = smallest(entries[0] if entries else None)
            holder[name] = []
            room = most_bytes - len(codec.encode(tree)) - 16
            holder[name] = [entry] * max(1, room // len(codec.encode(entry)))
            found.append(codec.encode(tree))
    return list(dict.fromkeys(found))


def _list_paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where lists are, of several alike the first."""
    if isinstance(node, dict):
        inner = [_list_paths(item, (*path, name)) for name, item in node.items()]
        return [found for several in inner for found in several]
    if isinstance(node, list):
        fixed = path and path[-1] == "~"
        items = list(enumerate(node)) if fixed else list(enumerate(node))[:1]
        inner = [_list_paths(item, (*path, index)) for index, item in items]
        return [*([] if fixed else [path]), *(found for several in inner for found in several)]
    return []


def _at(tree: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    holder, name = [tree], 0
    for step in path:
        holder, name = holder[name], step
    return holder, name


def _least(entry: Any) -> Any:
    """The shortest value of the same shape."""
    if isinstance(entry, dict):
        return {name: _least(item) for name, item in entry.items()}
    if isinstance(entry, list):
        return [_least(item) for item in entry]
    return entry if entry is None or isinstance(entry, bool) else type(entry)()


# ── trees ──────────────────────────────────────────────────────────────────────────────────────


def _changed(tree: Any, random: Random) -> Any:
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        places = _places(tree)
        if not places:
            return _leaf(tree, random)
        holder, name = random.choice(places)
        _change(holder, name, random, [h[n] for h, n in random.sample(places, min(8, len(places)))])
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (list or map, index or key) of a tree."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting and len(found) < 20_000:
        node = waiting.pop()
        if isinstance(node, list):
            inner = list(enumerate(node))
        elif isinstance(node, dict):
            inner = list(node.items())
        else:
            continue
        found += [(node, name) for name, _ in inner]
        waiting += [item for _, item in inner]
    return found


def _change(holder: Any, name: Any, random: Random, others: list[Any]) -> None:
    value = holder[name]
    match random.randrange(10):
        case 0:
            del holder[name]
        case 1 if isinstance(holder, list):
            holder.insert(name, value)
        case 1:
            holder[random.choice(TEXTS)] = value
        case 2:
            holder[name] = _copied(random.choice(others))
        case 3 if isinstance(value, list) and value:
            times = random.choice((2, 3, 20, 300, MANY))
            holder[name] = (value * min(times, MANY // len(value) + 1))[:MANY]
        case 3:
            holder[name] = [value] * random.choice((0, 1, 2))
        case 4 if random.random() < 0.3:
            nested: Any = value
            for _ in range(random.choice((1, 3, 100))):
                nested = [nested] if random.random() < 0.5 else {"a": nested}
            holder[name] = nested
        case 5:
            holder[name] = random.choice((None, True, False, [], {}, 0, ""))
        case _:
            holder[name] = _leaf(value, random)


def _leaf(value: Any, random: Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float) and abs(value) < 1e300:
        near = (value + 1, value - 1, value * 2, value / 2, -value, value * 1e6)
        return random.choice(near if random.random() < 0.5 else NUMBERS)
    if isinstance(value, str):
        if random.random() < 0.5:
            changed = mutate_bytes(value.encode(errors="replace"), random, 400)
            return changed.decode(errors="replace")
        return random.choice(TEXTS)
    if isinstance(value, bytes):
        return (
            mutate_bytes(value, random, 4096) if random.random() < 0.7 else random.choice(_BINARY)
        )
    return random.choice((*NUMBERS, *TEXTS, b"", None))


def _copied(node: Any) -> Any:
    """A copy, so that a tree never holds itself."""
    if isinstance(node, list):
        return [_copied(item) for item in node]
    if isinstance(node, dict):
        return {name: _copied(item) for name, item in node.items()}
    return node
