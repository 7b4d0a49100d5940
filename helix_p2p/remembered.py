"""Functions whose latest answers are remembered: what was checked or read once is not done again.

How much is worth it depends on how many swarms a process meets. A peer meets its own, and the sizes
are made for that; a simulation of many cells meets all of them, and says so.

Always: bounded; an exception is no answer and is not kept; what is answered does not depend on what
is remembered.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

_Asked = ParamSpec("_Asked")
_Answer = TypeVar("_Answer")


class _Memory:
    """One function's latest answers."""

    def __init__(self, function: Callable[..., Any], most: int) -> None:
        self._function = function
        self._most = most
        self.ask: Callable[..., Any] = lru_cache(maxsize=most)(function)

    def grow(self, times: int) -> None:
        """Keep so many times as many; what was kept so far is forgotten."""
        self.ask = lru_cache(maxsize=self._most * times)(self._function)


_memories: list[_Memory] = []
_swarms = 1


def remembered(most: int) -> Callable[[Callable[_Asked, _Answer]], Callable[_Asked, _Answer]]:
    """Remember a function's latest answers, by its arguments.

    Args:
        most: So many, for each swarm that the process meets.
    """

    def decorate(function: Callable[_Asked, _Answer]) -> Callable[_Asked, _Answer]:
        memory = _Memory(function, most)
        _memories.append(memory)

        @wraps(function)
        def answer(*args: _Asked.args, **kwargs: _Asked.kwargs) -> _Answer:
            found: _Answer = memory.ask(*args, **kwargs)
            return found

        return answer

    return decorate


def remember_for(swarms: int) -> None:
    """This process meets so many swarms at once: remember that many times as much, for good."""
    global _swarms
    if swarms > _swarms:
        _swarms = swarms
        for memory in _memories:
            memory.grow(swarms)
