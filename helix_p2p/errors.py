"""The one tree of errors: what went wrong, whose fault it is, and whether trying again can help.

    HelixError
    ├── InputError                 a person or a file gave something unusable; says what to do
    │   ├── ConfigError            an option, a scenario, a cluster file
    │   ├── ModelError             a model folder or id: missing, incomplete, unsupported, corrupt
    │   ├── InviteError            an invite that is malformed, for another swarm, or expired
    │   ├── PromptTooLong          prompt and answer do not fit into the model's context
    │   └── InvalidRequest         a generation request that no peer could serve as it stands
    ├── ProtocolError              another machine sent what the protocol forbids
    │   ├── DecodeError            bytes that are not what they claim to be, or too many of them
    │   ├── SignatureError         a signature that does not hold
    │   ├── RecordRejected         a record that may not stand where it was put
    │   ├── PlanRejected           a plan that fails validation (`rule` names the check)
    │   ├── HandshakeRefused       wrong swarm, model, version, role or certificate
    │   └── PoisonedActivation     activations of a wrong shape or type, or not finite
    ├── CapacityError              nothing is wrong, there is just no room now
    │   ├── Busy                   a stage has no KV room or a queue is full (`retry_after_s`)
    │   ├── NotServing             the peer does not hold these layers now
    │   ├── StaleEpoch             the message belongs to a plan that is over
    │   ├── NoRoute                no pipeline of live peers covers the layers
    │   ├── SwarmTooSmall          the peers together cannot hold the model (`missing_bytes`)
    │   └── OutOfMemory            the device refused an allocation
    ├── NetworkError               another machine is not to be reached
    │   ├── PeerUnreachable        a dial failed
    │   ├── PeerLost               an open stream broke or fell silent
    │   └── DeadlineExceeded       an answer did not come in time
    ├── SolverError                a solver died, timed out or found nothing
    └── Cancelled                  the caller asked to stop

Invariants: whether to retry is a property of the class, never of the text. Every class has a
stable `code` which crosses the wire; `from_wire` turns it back into the class.
"""

from typing import ClassVar


class HelixError(Exception):
    """Base of every error that helix-p2p raises on purpose.

    Args:
        message: One line: what happened and why.
        hint: What to do about it, if there is something to do.
        retry_after_s: Seconds after which a retry may succeed, if known.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(HelixError):
    """A person or a file gave something unusable."""

    code = "input"


class ConfigError(InputError):
    """An option or a configuration file is wrong."""

    code = "config"


class ModelError(InputError):
    """A model is missing, incomplete, unsupported or corrupt."""

    code = "model"


class InviteError(InputError):
    """An invite cannot be used."""

    code = "invite"


class PromptTooLong(InputError):
    """Prompt and answer together exceed the model's context."""

    code = "prompt_too_long"


class InvalidRequest(InputError):
    """A generation request that no peer could serve as it stands."""

    code = "invalid_request"


class ProtocolError(HelixError):
    """Another machine sent what the protocol forbids."""

    code = "protocol"


class DecodeError(ProtocolError):
    """Bytes are not what they claim to be, or too many."""

    code = "decode"


class SignatureError(ProtocolError):
    """A signature does not hold."""

    code = "signature"


class RecordRejected(ProtocolError):
    """A record may not stand where it was put."""

    code = "record_rejected"


class PlanRejected(ProtocolError):
    """A plan fails validation.

    Args:
        rule: Short name of the broken rule, e.g. `coverage` or `signature`.
        message: What exactly broke it.
    """

    code = "plan_rejected"

    def __init__(
        self,
        rule: str,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{rule}: {message}", hint=hint, retry_after_s=retry_after_s)
        self.rule = rule


class HandshakeRefused(ProtocolError):
    """The other end is of another swarm, model or version, or may not do this."""

    code = "handshake_refused"


class PoisonedActivation(ProtocolError):
    """Activations of a wrong shape or type, or not finite."""

    code = "poisoned_activation"


class CapacityError(HelixError):
    """Nothing is wrong, there is just no room now."""

    code = "capacity"
    retryable = True


class Busy(CapacityError):
    """A stage has no KV room, or a queue is full."""

    code = "busy"


class NotServing(CapacityError):
    """The peer does not hold these layers now."""

    code = "not_serving"


class StaleEpoch(CapacityError):
    """The message belongs to a plan that is over."""

    code = "stale_epoch"


class NoRoute(CapacityError):
    """No pipeline of live peers covers the layers."""

    code = "no_route"


class SwarmTooSmall(CapacityError):
    """The peers together cannot hold the model.

    Args:
        missing_bytes: How much more memory is needed.
        usable_peers: Peers that can hold at least one layer.
        total_peers: Peers in the swarm.
    """

    code = "swarm_too_small"

    def __init__(
        self,
        message: str | None = None,
        *,
        missing_bytes: int = 0,
        usable_peers: int = 0,
        total_peers: int = 0,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            message
            or (
                f"the swarm cannot hold the model: {missing_bytes / 1e9:.1f} GB more are needed; "
                f"{usable_peers} of {total_peers} peers can hold a layer"
            ),
            hint=hint,
            retry_after_s=retry_after_s,
        )
        self.missing_bytes = missing_bytes
        self.usable_peers = usable_peers
        self.total_peers = total_peers


class OutOfMemory(CapacityError):
    """The device refused an allocation."""

    code = "out_of_memory"


class NetworkError(HelixError):
    """Another machine is not to be reached."""

    code = "network"
    retryable = True


class PeerUnreachable(NetworkError):
    """A dial failed."""

    code = "peer_unreachable"


class PeerLost(NetworkError):
    """An open stream broke or fell silent."""

    code = "peer_lost"


class DeadlineExceeded(NetworkError):
    """An answer did not come in time."""

    code = "deadline_exceeded"


class SolverError(HelixError):
    """A solver died, timed out or found nothing."""

    code = "solver"


class Cancelled(HelixError):
    """The caller asked to stop."""

    code = "cancelled"


def _subclasses(cls: type[HelixError]) -> list[type[HelixError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _subclasses(sub))]


_BY_CODE: dict[str, type[HelixError]] = {cls.code: cls for cls in _subclasses(HelixError)}


def from_wire(code: str, message: str, retry_after_s: float | None = None) -> HelixError:
    """The error that another machine reported; an unknown code becomes a plain `ProtocolError`."""
    cls = _BY_CODE.get(code, ProtocolError)
    error = cls.__new__(cls)
    HelixError.__init__(error, message, retry_after_s=retry_after_s)
    return error
