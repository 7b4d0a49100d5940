"""Answers the control plane's questions: plan, members, the model's small files, status, probes.

Always: an answer comes from memory, at once, but for members of other cells, which are looked up,
and checks of what is computed here, which are answered to peers alone and run what `rechecking.py`
allows; files are those of the manifest that
are shared, never a path; a probe's size is bounded.
"""

from collections.abc import Awaitable, Callable, Mapping

from helix_p2p.errors import ProtocolError
from helix_p2p.identity import Signed
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.messages import (
    FileReply,
    GetFile,
    GetMembers,
    GetPlan,
    GetRootWords,
    GetStatus,
    MembersReply,
    PlanReply,
    Probe,
    RootWords,
    StatusReply,
)
from helix_p2p.net.channel import Channel
from helix_p2p.net.probe import answer_probe
from helix_p2p.net.transport import Buffer
from helix_p2p.session.recheck_messages import GetTrace, Rerun
from helix_p2p.types import PeerId
from helix_p2p.wire.registry import Message

Checks = Callable[[PeerId, GetTrace | Rerun, Buffer], Awaitable[tuple[Message, Buffer]]]
"""See `rechecking.TraceService.answer`; a bootstrap node has no engine and imports none."""


class ControlService:
    """What `net.requests.serve_requests` asks.

    Args:
        plan: A plan by hash, the highest adopted one for an empty hash.
        members: Announcements of a cell's members; of our own for None, this node's among them.
        root_words: What the root said later than the asker knows.
        files: The model's shared files by name, `manifest.json` among them.
        status: How this node is, as JSON.
    """

    def __init__(
        self,
        *,
        plan: Callable[[bytes], Signed | None],
        members: Callable[[int | None], Awaitable[tuple[Signed, ...]]],
        root_words: Callable[[GetRootWords], RootWords],
        files: Mapping[str, bytes],
        status: Callable[[], bytes],
    ) -> None:
        self.checks: Checks | None = None
        """Set where layers are served: answers those who check what is computed here."""
        self._plan = plan
        self._members = members
        self._root_words = root_words
        self._files = files
        self._status = status

    async def answer(
        self, channel: Channel, message: Message, payload: bytearray
    ) -> tuple[Message, Buffer]:
        """Answer one question.

        Raises:
            ProtocolError: This is not a question.
            InvalidRequest: A probe asks for too much.
        """
        match message:
            case GetPlan(wanted):
                return PlanReply(self._plan(wanted)), b""
            case GetMembers(_, cell):
                return MembersReply(await self._members(cell)), b""
            case GetRootWords():
                return self._root_words(message), b""
            case GetFile(name):
                body = self._files.get(name)
                return FileReply(name, body is not None), body or b""
            case GetStatus():
                return StatusReply(), self._status()
            case Probe():
                return answer_probe(message, payload)
            case GetTrace() | Rerun() if self.checks is not None and Role.PEER in channel.roles:
                return await self.checks(channel.remote, message, payload)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not a question")
