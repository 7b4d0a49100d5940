"""helix-p2p: a peer-to-peer volunteer compute network for large language models.

    from helix_p2p import Swarm

    async with Swarm.connect("helix1…") as swarm:
        async for piece in swarm.chat_stream([{"role": "user", "content": "Why is the sky blue?"}]):
            print(piece, end="", flush=True)

`SyncSwarm` is the same without `await`. Names are imported when they are first used, so that
importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helix_p2p.client.results import ChatOptions, Completion, Options, Piece, Usage
    from helix_p2p.client.stream import TextStream
    from helix_p2p.client.swarm import Swarm
    from helix_p2p.client.sync import SyncSwarm, SyncTextStream
    from helix_p2p.errors import HelixError
    from helix_p2p.session.messages import FinishReason
    from helix_p2p.types import LayerRange, PeerId

__all__ = [
    "ChatOptions",
    "Completion",
    "FinishReason",
    "HelixError",
    "LayerRange",
    "Options",
    "PeerId",
    "Piece",
    "Swarm",
    "SyncSwarm",
    "SyncTextStream",
    "TextStream",
    "Usage",
]

_HOME = {
    "ChatOptions": "helix_p2p.client.results",
    "Completion": "helix_p2p.client.results",
    "FinishReason": "helix_p2p.session.messages",
    "HelixError": "helix_p2p.errors",
    "LayerRange": "helix_p2p.types",
    "Options": "helix_p2p.client.results",
    "PeerId": "helix_p2p.types",
    "Piece": "helix_p2p.client.results",
    "Swarm": "helix_p2p.client.swarm",
    "SyncSwarm": "helix_p2p.client.sync",
    "SyncTextStream": "helix_p2p.client.sync",
    "TextStream": "helix_p2p.client.stream",
    "Usage": "helix_p2p.client.results",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
