"""What the model takes, and so what a client may ask of an entry peer and an entry peer of a stage.

Always: everything that another machine chose is judged here before it is kept or computed with, so
the machines and the engine meet only values that make sense.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from helix_p2p.errors import InvalidRequest, PromptTooLong, ProtocolError
from helix_p2p.session.messages import Generate, Open, Sampling
from helix_p2p.session.prefixes import PREFIX_BLOCK_TOKENS, PREFIX_HASH_BYTES
from helix_p2p.types import SESSION_ID_BYTES, PeerId

MOST_EOS = 64
"""Models name up to about ten; each is compared with every token."""
MOST_AVOIDED = 64


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What the model takes."""

    layers: int
    context_tokens: int
    vocab_size: int


def check_request(request: Generate, model: ModelLimits) -> None:
    """Refuse what no peer could serve.

    Raises:
        InvalidRequest: Token ids, lengths or sampling are out of range.
        PromptTooLong: Prompt and answer exceed the model's context.
    """
    if len(request.session) != SESSION_ID_BYTES:
        raise InvalidRequest(f"a session id is {SESSION_ID_BYTES} bytes")
    if not request.prompt or request.max_new_tokens <= len(request.generated):
        raise InvalidRequest("a prompt and at least one new token are needed")
    longest = len(request.prompt) + request.max_new_tokens
    if longest > model.context_tokens:
        raise PromptTooLong(
            f"prompt and answer take {longest} tokens, "
            f"the model's context is {model.context_tokens}"
        )
    if len(request.eos) > MOST_EOS or len(request.avoid) > MOST_AVOIDED:
        raise InvalidRequest(f"at most {MOST_EOS} end tokens and {MOST_AVOIDED} peers to avoid")
    tokens = (*request.prompt, *request.generated)
    if min(tokens) < 0 or max(tokens) >= model.vocab_size:
        raise InvalidRequest(f"token ids are 0 to {model.vocab_size - 1}")
    if request.budget_s is not None and not request.budget_s >= 0:
        raise InvalidRequest("a budget is at least 0 seconds")
    if not _is_sane(request.sampling):
        raise InvalidRequest(
            "temperature is 0 to 100, top_p in (0, 1], top_k at least 0, "
            "repetition_penalty in (0, 100]"
        )


def check_open(message: Open, sender: PeerId, me: PeerId, model: ModelLimits) -> None:
    """Refuse a stage that could not be part of any pipeline.

    Args:
        message: As it came.
        sender: From whom.
        me: This peer.
        model: What the model takes.

    Raises:
        ProtocolError: Another peer's session, sizes out of range, or ends that do not fit.
    """
    if len(message.session) != SESSION_ID_BYTES:
        raise ProtocolError(f"a session id is {SESSION_ID_BYTES} bytes")
    if message.entry != sender:
        raise ProtocolError("only a session's entry peer opens its stages")
    if not 1 <= message.kv_tokens <= model.context_tokens:
        raise ProtocolError(f"a session has 1 to {model.context_tokens} positions")
    last = message.layers.end >= model.layers
    if message.layers.end > model.layers or last != (message.last is not None):
        raise ProtocolError("exactly the stage that runs the last layer samples")
    if last != (message.next is None) or message.next == me:
        raise ProtocolError("every stage but the last passes its output on to another peer")
    if not (message.layers.start == 0) == (message.entry == me) == (message.previous == me):
        raise ProtocolError("an entry peer runs its sessions' first stage, and no other, itself")
    check_prefix(message.prefix, model)
    if message.last is not None and not (
        _is_sane(message.last.sampling)
        and len(message.last.history) <= message.kv_tokens
        and all(0 <= token < model.vocab_size for token in message.last.history)
    ):
        raise ProtocolError("sampling is out of range")


def check_prefix(chain: Sequence[bytes], model: ModelLimits) -> None:
    """Refuse a chain that no session could have.

    Raises:
        ProtocolError: Too long, or not hashes.
    """
    longest = 1 + model.context_tokens // PREFIX_BLOCK_TOKENS
    if len(chain) > longest or any(len(link) != PREFIX_HASH_BYTES for link in chain):
        raise ProtocolError(f"a prefix is at most {longest} hashes of {PREFIX_HASH_BYTES} bytes")


def _is_sane(sampling: Sampling) -> bool:
    return (
        0.0 <= sampling.temperature <= 100.0
        and 0.0 < sampling.top_p <= 1.0
        and sampling.top_k >= 0
        and 0.0 < sampling.repetition_penalty <= 100.0
    )
