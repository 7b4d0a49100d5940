"""Peers that speak the real protocol over the in-memory network, and generate by rote.

The answer to a prompt is fixed (`answer_to`), so that every test knows what must come, whoever
gives it. Faults are commands: a peer refuses, stops after some tokens, is killed or frozen.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.manifest import (
    MANIFEST_NAME,
    SHARED_NAMES,
    Manifest,
    ManifestFile,
    make_manifest,
)
from helix_p2p.errors import HelixError, NetworkError, ProtocolError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cells import cell_id
from helix_p2p.membership.credentials import open_swarm_id_of
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.invite import Invite
from helix_p2p.membership.messages import (
    FileReply,
    GetFile,
    GetMembers,
    GetPlan,
    GetRootWords,
    Heartbeat,
    MembersReply,
    PlanReply,
    Probe,
    ProbeReply,
    RootWords,
)
from helix_p2p.net.channel import Channel, Membership, accept_channel
from helix_p2p.net.memory import MemoryNetwork, MemoryTransport
from helix_p2p.net.protocols import CLIENT_PROTOCOL
from helix_p2p.net.requests import serve_requests
from helix_p2p.net.transport import Handler, Stream, Transport
from helix_p2p.planning.plan import (
    Assignment,
    EdgeFlow,
    MinCut,
    Placement,
    Plan,
)
from helix_p2p.planning.signed import sign_plan
from helix_p2p.session.messages import (
    Cancel,
    Delivered,
    Failure,
    FinishReason,
    Generate,
    Refused,
)
from helix_p2p.types import Epoch, LayerRange, PeerId
from helix_p2p.wire.registry import Message
from tests.unit.client.small_models import Files, write_model

LAYERS = 4
ALL_LAYERS = LayerRange(0, LAYERS)
VOCAB = 320


def answer_to(prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """The model's answer: byte tokens and words, no end token."""
    seed = hashlib.sha256(repr(tuple(prompt)).encode()).digest()
    return tuple(3 + (seed[i % 32] * (i + 7)) % (VOCAB - 3) for i in range(count))


def manifest_of(folder: Path, context_tokens: int) -> Manifest:
    files = [
        ManifestFile(
            path.name,
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
            shared=path.name in SHARED_NAMES,
        )
        for path in folder.iterdir()
    ]
    return make_manifest(
        name="test/tiny",
        architecture="LlamaForCausalLM",
        layers=LAYERS,
        vocab_size=VOCAB,
        context_tokens=context_tokens,
        files=files,
    )


@dataclass
class FakePeer:
    """One peer; `serving` None makes it a bootstrap node."""

    swarm: "FakeSwarm"
    identity: Identity
    serving: LayerRange | None
    files: dict[str, bytes]
    pause_s: float = 0.0
    stop_after: int | None = None
    die_after: int | None = None
    refusal: HelixError | None = None
    ends_with: int | None = None
    asked: list[Generate] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)
    streams: int = 0
    ended: int = 0
    questions: list[Message] = field(default_factory=list)
    sequence: int = 0
    addresses: tuple[str, ...] = ()
    cell: int = 0

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def address(self) -> str:
        return self.addresses[0]

    def announcement(self) -> Signed:
        self.sequence += 1
        said = Announcement(
            incarnation=1,
            sequence=self.sequence,
            issued_unix_s=0.0,
            manifest_hash=self.swarm.manifest.manifest_hash,
            state=PeerState.SERVING if self.serving else PeerState.STANDBY,
            memory_bytes=1,
            serving=self.serving,
            addresses=self.addresses,
            credentials=self.swarm.credentials(self.identity) if self.swarm.certified else b"",
        )
        return said.signed(self.identity, cell_id(self.swarm.name, self.cell))

    async def start(self, transport: Transport | None = None) -> None:
        transport = transport or self.swarm.network.join(self.peer_id)
        self.addresses = tuple(transport.addresses)
        admission = Admission(
            self.swarm.name,
            self.swarm.manifest.manifest_hash if self.serving else "",
            self.swarm.root,
            self.swarm.credentials(self.identity),
        )
        ours = Membership.of(lambda: admission)
        await serve_requests(transport, ours, self._answer)

        async def serve(stream: Stream) -> None:
            try:
                await self._serve(await accept_channel(stream, ours))
            except HelixError:
                return

        if self.serving:
            await transport.serve(CLIENT_PROTOCOL, serve)

    async def _answer(
        self, _channel: Channel, message: Message, _payload: bytearray
    ) -> tuple[Message, bytes]:
        self.questions.append(message)
        match message:
            case GetPlan():
                return PlanReply(self.swarm.plan(self.cell)), b""
            case GetMembers(_, cell):
                cell = self.cell if cell is None else cell
                return MembersReply(self.swarm.announcements(cell)), b""
            case GetRootWords():
                if self.swarm.silent_on_cells:
                    raise ProtocolError("GetRootWords is not a question")
                return RootWords(self.swarm.cells), b""
            case GetFile(name):
                body = self.files.get(name)
                return FileReply(name, body is not None), body or b""
            case Probe():
                return ProbeReply(), b""
        raise AssertionError(message)

    async def _serve(self, channel: Channel) -> None:
        self.streams += 1
        running: dict[bytes, asyncio.Task[None]] = {}
        try:
            while True:
                message, _ = await channel.receive()
                match message:
                    case Generate():
                        self.asked.append(message)
                        task = asyncio.create_task(self._generate(channel, message))
                        running[message.session] = task
                    case Cancel(session):
                        self.cancelled.append(session)
                        if session in running:
                            running[session].cancel()
                    case Heartbeat():
                        await channel.send(Heartbeat())
                    case _:
                        raise AssertionError(message)
        finally:
            self.ended += 1
            for task in running.values():
                task.cancel()
            await asyncio.gather(*running.values(), return_exceptions=True)
            await channel.close()

    async def _generate(self, channel: Channel, message: Generate) -> None:
        if self.refusal is not None:
            refusal = self.refusal
            failure = Failure(refusal.code, refusal.message, refusal.retry_after_s)
            await channel.send(Refused(message.session, failure))
            return
        answer = answer_to(message.prompt, message.max_new_tokens)
        if self.ends_with is not None:
            answer = (*answer[:5], self.ends_with)
        pipeline = ((self.peer_id, LayerRange(0, LAYERS)),)
        count = 0
        try:
            for index in range(len(message.generated), len(answer)):
                if self.stop_after is not None and count >= self.stop_after:
                    return
                if self.die_after is not None and count >= self.die_after:
                    self.swarm.network.kill(self.peer_id)
                    return
                token = answer[index]
                finished = None
                if not message.ignore_eos and token in message.eos:
                    finished = FinishReason.STOP
                elif index + 1 == message.max_new_tokens:
                    finished = FinishReason.LENGTH
                said = Delivered(message.session, index, (token,), finished, pipeline)
                await channel.send(said)
                pipeline = ()
                count += 1
                await asyncio.sleep(self.pause_s)
        except NetworkError:
            return


class FakeSwarm:
    """Some peers and a plan over them."""

    def __init__(
        self, folder: Path, invite: Invite | None = None, *, context_tokens: int = 256
    ) -> None:
        self.network = MemoryNetwork()
        self.folder = write_model(folder)
        self.manifest = manifest_of(self.folder, context_tokens)
        self.invite = invite
        self.name = invite.swarm if invite else open_swarm_id_of(self.manifest.manifest_hash)
        self.root = invite.root_public_key if invite else None
        self.peers: list[FakePeer] = []
        self.gone: set[PeerId] = set()
        self.transports: dict[PeerId, MemoryTransport] = {}
        self.certified = True
        self.epoch = 64
        self.planner = Identity(bytes([255] * 32))
        self.cells: Signed | None = None
        self.silent_on_cells = False

    def credentials(self, identity: Identity) -> bytes:
        return self.invite.credentials_for(identity.public_key) if self.invite else b""

    @staticmethod
    def identity_of(number: int) -> Identity:
        """The key of the first peer, the second …"""
        return Identity(bytes([number] * 32))

    async def add(
        self,
        serving: LayerRange | None = ALL_LAYERS,
        transport: Transport | None = None,
        *,
        cell: int = 0,
    ) -> FakePeer:
        number = len(self.peers) + 1
        files = dict(Files.of(self.folder).files)
        files[MANIFEST_NAME] = self.manifest.encoded
        peer = FakePeer(self, self.identity_of(number), serving, files, cell=cell)
        self.peers.append(peer)
        await peer.start(transport)
        return peer

    def transport_of(self, client: PeerId) -> MemoryTransport:
        """A client's own transport, kept over several connections."""
        if client not in self.transports:
            self.transports[client] = self.network.join(client)
        return self.transports[client]

    def kill(self, peer: FakePeer) -> None:
        """kill -9, and the members know it."""
        self.network.kill(peer.peer_id)
        self.gone.add(peer.peer_id)

    def announcements(self, cell: int = 0) -> tuple[Signed, ...]:
        return tuple(p.announcement() for p in self._living(cell))

    def _living(self, cell: int) -> list[FakePeer]:
        return [p for p in self.peers if p.peer_id not in self.gone and p.cell == cell]

    def plan(self, cell: int = 0) -> Signed:
        entries = [p for p in self._living(cell) if p.serving]
        flows = []
        for peer in entries:
            flows += [EdgeFlow(None, peer.peer_id, 1000), EdgeFlow(peer.peer_id, None, 1000)]
        placement = Placement(
            tuple(Assignment(p.peer_id, p.serving) for p in entries if p.serving),
            tuple(flows),
            1000 * len(entries),
            1000 * len(entries),
            MinCut(),
            "rote",
            0.0,
        )
        plan = Plan(
            Epoch(self.epoch),
            self.planner.peer_id,
            b"",
            self.manifest.manifest_hash,
            0.0,
            (),
            placement,
        )
        return sign_plan(plan, self.planner, cell_id(self.name, cell))


class HomeTransport:
    """A client's transport that starts the fake swarm on whatever event loop first dials it."""

    def __init__(self, fake: FakeSwarm, client: PeerId) -> None:
        self.fake = fake
        self._client = client
        self._began: asyncio.Task[FakePeer] | None = None
        self.addresses: Sequence[str] = ()

    @property
    def peer_id(self) -> PeerId:
        return self._client

    async def serve(self, protocol: str, handler: Handler) -> None:
        raise AssertionError("a client serves nothing")

    async def open(
        self,
        peer: PeerId,
        protocol: str,
        *,
        addresses: Sequence[str] = (),
        timeout_s: float = 10.0,
    ) -> Stream:
        if self._began is None:
            self._began = asyncio.create_task(self.fake.add())
        await self._began
        return await self.fake.transport_of(self._client).open(peer, protocol)

    async def close(self) -> None:
        for peer in self.fake.peers:
            self.fake.network.kill(peer.peer_id)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
