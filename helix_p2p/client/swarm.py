"""A swarm as its user sees it: connect, then generate, chat and stream.

The client is thin: tokenizer, chat template, one stream per entry peer. It dials only, so it works
behind any NAT, and it needs neither torch nor the DHT: whoever is asked first hands out the plan,
the members and the model's small files, all of them signed or hashed.

Always: one `Swarm` serves any number of generations at once, on one event loop; everything it
started has ended when `async with` is left.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from helix_p2p.client.chat_template import Message
from helix_p2p.client.detokenizer import StopStrings
from helix_p2p.client.links import EntryLinks
from helix_p2p.client.looking import SwarmName
from helix_p2p.client.model_files import NobodyHasIt, load_model_files
from helix_p2p.client.model_text import ModelText
from helix_p2p.client.results import (
    DEFAULT_MAX_TOKENS,
    ChatOptions,
    Completion,
    Options,
    Wanted,
    read_options,
)
from helix_p2p.client.stream import TextStream
from helix_p2p.client.view import SwarmView
from helix_p2p.client.way_in import WayIn, read_way_in
from helix_p2p.cluster.manifest import Manifest
from helix_p2p.errors import (
    DeadlineExceeded,
    HandshakeRefused,
    HelixError,
    InvalidRequest,
    NetworkError,
    NoRoute,
    PromptTooLong,
)
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import Role, is_open
from helix_p2p.membership.handshake import NONCE_BYTES, Admission, check_hello
from helix_p2p.membership.messages import Hello
from helix_p2p.net.channel import Membership
from helix_p2p.net.requests import Requests
from helix_p2p.net.transport import Transport
from helix_p2p.session.client import ClientSession
from helix_p2p.session.client_values import GenerationRequest
from helix_p2p.session.entry_choice import EntryChoice
from helix_p2p.types import PeerId

CONNECT_S = 60.0
"""A tokenizer of 35 MB over a home uplink of 1 MB/s takes 35 s."""
RETRY_S = 1.0
EVERYWHERE = ("/ip4/0.0.0.0/tcp/0",)
"""Hole punching needs a port of our own; nothing is served on it."""


class Swarm:
    """A connection to one swarm and its model; made by `connect`, used as `async with`."""

    def __init__(self, config: "_Config") -> None:
        self._config = config
        self._random = config.random
        self._choice = EntryChoice(self._random)
        self._cleanup = contextlib.AsyncExitStack()
        self._view: SwarmView | None = None
        self._links: EntryLinks | None = None
        self._model: tuple[Manifest, ModelText] | None = None

    @classmethod
    def connect(
        cls,
        way_in: str | Sequence[str],
        *,
        model: str | Path | None = None,
        transport: Transport | None = None,
        identity: Identity | None = None,
        cache: Path | None = None,
        timeout_s: float = CONNECT_S,
    ) -> "Swarm":
        """Name the swarm to use; entering the result connects.

        Args:
            way_in: An invite, or multiaddrs (with `/p2p/…`) of any member of an open swarm.
            model: A folder with the model's tokenizer, to be spared its transfer; otherwise the
                swarm hands it out, and it is cached.
            transport: Used instead of libp2p, and left open at the end.
            identity: The transport's key; drawn for this connection when absent.
            cache: Where the model's small files are kept; the user's cache folder by default.
            timeout_s: For connecting, the model's files included.

        Raises:
            InviteError: The way in cannot be used.
        """
        assert transport is None or identity is not None, "a transport comes with its identity"
        return cls(
            _Config(
                way_in=read_way_in(way_in, time.time()),
                folder=None if model is None else Path(model),
                transport=transport,
                identity=identity or Identity(secrets.token_bytes(32)),
                cache=cache,
                timeout_s=timeout_s,
                random=random.SystemRandom(),
            )
        )

    # ── generating ─────────────────────────────────────────────────────────────────────────────

    def stream(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> TextStream:
        """Complete a prompt, piece by piece.

        Args:
            prompt: Text, or token ids.
            options: See `Options`.

        Raises:
            InvalidRequest: The prompt is empty or an option makes no sense.
            PromptTooLong: It does not fit into the model's context.
        """
        wanted = read_options(options, self._random)
        if isinstance(prompt, str):
            return self._start_stream(self.text.encode(prompt), wanted)
        return self._start_stream(tuple(prompt), wanted)

    async def generate(self, prompt: str | Sequence[int], **options: Unpack[Options]) -> Completion:
        """Complete a prompt; raises what `stream` and its iteration raise.

        Args:
            prompt: Text, or token ids.
            options: See `Options`.
        """
        return await self.stream(prompt, **options).collect()

    def chat_stream(
        self, messages: Sequence[Message], **options: Unpack[ChatOptions]
    ) -> TextStream:
        """Answer a conversation with the model's chat template, piece by piece.

        Args:
            messages: `{"role": …, "content": …}`, in order.
            options: See `ChatOptions`.

        Raises:
            InvalidRequest: The template does not take these messages, or an option is wrong.
            PromptTooLong: It does not fit into the model's context.
            ModelError: The model has no chat template.
        """
        plain: dict[str, Any] = dict(options)
        prompt = self.text.encode_chat(
            messages,
            tools=plain.pop("tools", None),
            template=plain.pop("template", None),
            variables=plain.pop("template_variables", None),
        )
        return self._start_stream(prompt, read_options(plain, self._random))

    async def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """Answer a conversation; raises what `chat_stream` and its iteration raise.

        Args:
            messages: `{"role": …, "content": …}`, in order.
            options: See `ChatOptions`.
        """
        return await self.chat_stream(messages, **options).collect()

    # ── looking ────────────────────────────────────────────────────────────────────────────────

    @property
    def manifest(self) -> Manifest:
        """What the model is made of."""
        return self._loaded()[0]

    @property
    def text(self) -> ModelText:
        """The model's tokenizer and chat template."""
        return self._loaded()[1]

    @property
    def view(self) -> SwarmView:
        """Plan and members as this client knows them."""
        assert self._view is not None, "use it as `async with Swarm.connect(…)`"
        return self._view

    async def refresh(self) -> None:
        """Ask for the plan and the members now."""
        await self.view.refresh()

    # ── life ───────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        timeout_s = self._config.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._open()
        except TimeoutError as error:
            await self.aclose()
            raise DeadlineExceeded(f"connecting takes longer than {timeout_s:g} s") from error
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all generations and streams; safe to call twice."""
        await self._cleanup.aclose()

    async def _open(self) -> None:
        config = self._config
        transport = config.transport or await self._start_libp2p()
        name, ours = _membership(config.way_in, config.identity)
        requests = Requests(transport, ours)
        self._cleanup.push_async_callback(requests.close)
        view = self._view = SwarmView(
            requests, name, config.way_in.sources, self._choice, self._random
        )
        self._cleanup.push_async_callback(view.close)
        links = self._links = EntryLinks(transport, ours, view.addresses_of)
        self._cleanup.push_async_callback(links.close)
        deadline_s = asyncio.get_running_loop().time() + config.timeout_s
        await view.refresh()
        self._model = await self._load(view, deadline_s)
        view.start()

    async def _load(self, view: SwarmView, deadline_s: float) -> tuple[Manifest, ModelText]:
        """The model's words; peers of a young swarm may still be on their way."""
        clock = asyncio.get_running_loop().time
        while True:
            error: HelixError = NoRoute(
                "the swarm has no peers yet", hint="lend it one with `helix-peer join`"
            )
            if view.manifest_hash is not None:
                try:
                    manifest, files = await load_model_files(
                        view.manifest_hash,
                        view.fetch,
                        folder=self._config.folder,
                        cache=self._config.cache,
                    )
                    return manifest, await asyncio.to_thread(ModelText, files)
                except (NobodyHasIt, NetworkError) as caught:
                    error = caught
            if clock() + RETRY_S > deadline_s:
                raise error
            await asyncio.sleep(RETRY_S)
            await view.refresh()

    async def _start_libp2p(self) -> Transport:
        from helix_p2p.net.libp2p import LOOPBACK, Libp2pTransport

        local = self._config.way_in.local
        transport = await Libp2pTransport.start(
            self._config.identity,
            listen=LOOPBACK if local else EVERYWHERE,
            nat=not local,
        )
        self._cleanup.push_async_callback(transport.close)
        return transport

    def _loaded(self) -> tuple[Manifest, ModelText]:
        assert self._model is not None, "use it as `async with Swarm.connect(…)`"
        return self._model

    def _start_stream(self, prompt: tuple[int, ...], wanted: Wanted) -> TextStream:
        manifest, text = self._loaded()
        assert self._links is not None
        request = GenerationRequest(
            prompt=_checked(prompt, manifest.vocab_size),
            max_new_tokens=_answer_tokens(len(prompt), wanted.max_tokens, manifest),
            vocab_size=manifest.vocab_size,
            eos=text.eos,
            sampling=wanted.sampling,
            ignore_eos=wanted.ignore_eos,
            trace=wanted.trace,
        )
        session = ClientSession(request, self._choice, self._random, wanted.limits)
        return TextStream(
            session, self._links, self.view, text.incremental(), StopStrings(wanted.stop)
        )


@dataclass(frozen=True, slots=True)
class _Config:
    way_in: WayIn
    folder: Path | None
    transport: Transport | None
    identity: Identity
    cache: Path | None
    timeout_s: float
    random: random.Random


def _membership(way_in: WayIn, identity: Identity) -> tuple[SwarmName, Membership]:
    """What we show and whom we believe; an open swarm's id is learnt from the first answer."""
    invite = way_in.invite
    name = SwarmName()
    credentials = b""
    if invite is not None:
        name.swarm = invite.swarm
        name.manifest_hash = invite.manifest_hash or None
        name.root_public_key = invite.root_public_key or None
        credentials = invite.credentials_for(identity.public_key)

    def admission(swarm: str) -> Admission:
        return Admission(swarm, "", name.root_public_key, credentials)

    def check(peer: PeerId, hello: Hello) -> frozenset[Role]:
        if name.swarm is None and not is_open(hello.swarm):
            raise HandshakeRefused("this swarm takes members only", hint="ask for an invite")
        roles = check_hello(
            hello, admission(name.swarm or hello.swarm), remote=peer, now_unix_s=time.time()
        )
        name.swarm = name.swarm or hello.swarm
        name.manifest_hash = name.manifest_hash or hello.manifest_hash or None
        return roles

    return name, Membership(
        hello=lambda: admission(name.swarm or "").hello(secrets.token_bytes(NONCE_BYTES)),
        check=check,
    )


def _checked(prompt: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    if not prompt:
        raise InvalidRequest("the prompt is empty")
    for token in prompt:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise InvalidRequest(f"{token!r} is no token id of this model (0 to {vocab_size - 1})")
    return prompt


def _answer_tokens(prompt_tokens: int, max_tokens: int | None, manifest: Manifest) -> int:
    context = manifest.context_tokens
    room = context - prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens, the model's context holds {context}",
            hint="shorten the prompt",
        )
    if max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if max_tokens > room:
        raise PromptTooLong(
            f"{prompt_tokens} tokens of prompt and {max_tokens} of answer exceed the model's "
            f"context of {context}",
            hint=f"ask for at most {room} tokens or shorten the prompt",
        )
    return max_tokens
