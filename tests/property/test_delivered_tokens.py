"""Whatever entry peers do, the client's tokens are the answer's, each once and in order."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from helix_p2p.errors import Busy, HelixError, NotServing, PeerLost, PeerUnreachable
from helix_p2p.session.client import ClientSession
from helix_p2p.session.client_values import Ended, GenerationRequest, Limits, Send, Tokens
from helix_p2p.session.entry_choice import EntryCandidate, EntryChoice
from helix_p2p.session.messages import (
    Cancel,
    Delivered,
    Failure,
    FinishReason,
    Generate,
    Refused,
)
from helix_p2p.types import PeerId

VOCAB = 50
EOS = 7
PEERS = tuple(PeerId(name) for name in "ABC")


class FaultyEntries:
    """Entry peers that all know the right answer, over a way that does what it likes.

    Frames of one stream arrive in order and unchanged (the transport's word), so the way can cut
    a stream, be silent, and deliver late; peers can repeat, refuse and go. What comes from an
    attempt that is over arrives as well.
    """

    def __init__(self, answer: tuple[int, ...], random: Random, trouble: float) -> None:
        self.answer = answer
        self.random = random
        self.trouble = trouble
        self.queue: list[tuple[PeerId, Delivered | Refused | HelixError]] = []

    def generate(self, peer: PeerId, message: Generate) -> None:
        if self.random.random() < self.trouble:
            self.queue.append((peer, self._trouble(message)))
            return
        at = len(message.generated)
        while at < len(self.answer):
            if self.random.random() < self.trouble:
                if self.random.random() < 0.5:
                    self.queue.append((peer, self._trouble(message)))
                return
            start = self.random.randint(0, at) if self.random.random() < self.trouble else at
            at = min(len(self.answer), at + self.random.randint(1, 4))
            finished = None
            if at == len(self.answer) and self.random.random() < 0.8:
                stop = self.answer[-1] == EOS
                finished = FinishReason.STOP if stop else FinishReason.LENGTH
            self.queue.append(
                (peer, Delivered(message.session, start, self.answer[start:at], finished))
            )

    def _trouble(self, message: Generate) -> Refused | HelixError:
        kind = self.random.randrange(4)
        if kind == 0:
            return PeerLost("cut")
        if kind == 1:
            return PeerUnreachable("no way")
        code = Busy.code if kind == 2 else NotServing.code
        return Refused(message.session, Failure(code, "no", self.random.random()))

    def take(self) -> tuple[PeerId, Delivered | Refused | HelixError] | None:
        """One event; the order is kept for each peer, not between peers."""
        if not self.queue:
            return None
        peer = self.random.choice(self.queue)[0]
        at = next(i for i, (of, _) in enumerate(self.queue) if of == peer)
        event = self.queue[at]
        if self.random.random() < self.trouble / 2 and not isinstance(event[1], HelixError):
            return event  # comes a second time
        del self.queue[at]
        return event


@settings(max_examples=200, deadline=None)
@given(
    body=st.lists(st.integers(0, VOCAB - 1).filter(lambda t: t != EOS), max_size=40),
    stops=st.booleans(),
    seed=st.integers(0, 2**32),
    trouble=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
)
def test_tokens_are_the_answers_each_once_in_order(
    body: list[int], stops: bool, seed: int, trouble: float
):
    answer = (*body, EOS) if stops or not body else tuple(body)
    random = Random(seed)
    entries = FaultyEntries(answer, random, trouble)
    choice = EntryChoice(random)
    choice.update(EntryCandidate(peer, 1 + i) for i, peer in enumerate(PEERS))
    extra = 3 if answer[-1] == EOS else 0
    request = GenerationRequest((1,), len(answer) + extra, VOCAB, eos=(EOS,))
    machine = ClientSession(request, choice, random, Limits(total_s=3600.0))
    now_s, got, end = 0.0, list[int](), None
    effects = machine.start(now_s)
    for _ in range(20_000):
        for effect in effects:
            assert end is None, "nothing comes after the end"
            match effect:
                case Send(peer=peer, message=Generate() as message):
                    assert message.generated == tuple(got)
                    entries.generate(peer, message)
                case Send(message=Cancel()):
                    pass
                case Tokens(first_index=first, tokens=tokens):
                    assert first == len(got)
                    got.extend(tokens)
                case Ended():
                    end = effect
        assert tuple(got) == answer[: len(got)]
        if end is not None:
            break
        event = entries.take()
        now_s += random.random() * 0.01
        match event:
            case (peer, HelixError() as error):
                effects = machine.on_lost(peer, error, now_s)
            case (peer, (Delivered() | Refused()) as said):
                effects = machine.on_message(peer, said, now_s)
            case _:
                assert machine.wake_s is not None
                now_s = max(now_s, machine.wake_s)
                effects = machine.on_tick(now_s)
    assert end is not None, "every generation ends"
    assert (end.error is None) == (tuple(got) == answer)
    if trouble == 0.0:
        assert end.error is None
    assert machine.tokens == tuple(got)
    assert machine.wake_s is None
