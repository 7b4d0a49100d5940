"""Virtual time and the links in it."""

from random import Random

from helix_p2p.sim.clock import VirtualTime
from helix_p2p.sim.network import LinkModel, Network
from helix_p2p.types import PeerId

A, B = PeerId("a"), PeerId("b")


def network(link: LinkModel, seed: int = 0) -> tuple[VirtualTime, Network]:
    time = VirtualTime()
    return time, Network(time, {(A, B): link}, LinkModel(1.0, 1.0), Random(seed))


def test_what_is_due_together_happens_in_the_order_asked_for():
    time, seen = VirtualTime(), []
    for number in range(5):
        time.at(1.0, seen.append, number)
    time.at(0.5, seen.append, "first")
    time.run(1.0)
    assert seen == ["first", 0, 1, 2, 3, 4]
    assert time.now_s == 1.0


def test_time_never_goes_back():
    time, seen = VirtualTime(), []
    time.at(2.0, lambda: time.at(1.0, lambda: seen.append(time.now_s)))
    time.run(3.0)
    assert seen == [2.0]


def test_equal_notes_give_equal_hashes():
    def hashed(*notes: bytes) -> str:
        time = VirtualTime()
        for number, note in enumerate(notes):
            time.at(float(number), time.note, note)
        time.run(10.0)
        return time.trace_hash()

    assert hashed(b"x", b"y") == hashed(b"x", b"y") != hashed(b"y", b"x")


def test_a_stream_sends_one_message_at_a_time_and_then_takes_its_latency():
    time, net = network(LinkModel(0.5, 100.0))
    arrived = []
    for _ in range(2):
        net.send(A, B, 100.0, lambda: arrived.append(time.now_s))
    time.run(10.0)
    assert arrived == [1.5, 2.5]


def test_urgent_messages_go_before_those_that_wait():
    time, net = network(LinkModel(0.0, 1.0))
    order = []
    net.send(A, B, 1.0, order.append, "on its way", urgent=False)
    net.send(A, B, 1.0, order.append, "prefill", urgent=False)
    net.send(A, B, 1.0, order.append, "decode", urgent=True)
    time.run(10.0)
    assert order == ["on its way", "decode", "prefill"]


def test_loss_delays_and_keeps_the_order():
    time, net = network(LinkModel(0.01, 1e6, loss=0.4), seed=5)
    order, times = [], []
    for number in range(200):
        net.send(A, B, 10.0, lambda n=number: (order.append(n), times.append(time.now_s)))
    time.run(1000.0)
    assert order == list(range(200))
    assert max(times) > 0.2


def test_nothing_crosses_a_partition():
    time, net = network(LinkModel(0.0, 1.0))
    arrived = []
    net.partition({A: 1})
    net.send(A, B, 1.0, arrived.append, 1)
    net.partition({})
    net.send(A, B, 1.0, arrived.append, 2)
    time.run(5.0)
    assert arrived == [2]
