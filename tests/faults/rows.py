"""The rows of the fault table, in the order in which they are run and shown."""

from tests.faults.by_bench import soak
from tests.faults.by_tests import by_tests, mutations
from tests.faults.clocks import wrong
from tests.faults.coming_and_going import bootstrap_down, churn, leave, planner
from tests.faults.frozen import freeze_peer, vanish
from tests.faults.kills import kill_one, kill_only_holder, kill_two
from tests.faults.liars import boast
from tests.faults.network import dead_line, far_apart, partition
from tests.faults.pressure import grey, overload
from tests.faults.storage import full, rotten, torn
from tests.faults.table import Row

ROWS: tuple[Row, ...] = (
    Row(
        "kill",
        "kill -9 of any pipeline peer mid-generation",
        "the stream resumes, output identical to the unbroken run: 100/100; "
        "added delay p50 < 2 s, p95 < 5 s",
        "SmolLM2 on loopback, six peers, every range held twice; 4 answers at once, greedy and "
        "seeded; an answer whose pipeline held the killed peer is a trial",
        25,
        kill_one,
    ),
    Row(
        "kill-only",
        "the same, where the killed peer was the only holder of its layers",
        "the same output; how long a plan and loading take is not promised",
        "four peers as the planner places them: each range held once",
        8,
        kill_only_holder,
    ),
    Row(
        "kill-two",
        "two peers killed at once; a kill during the replay",
        "the same output, or one typed error; never a hang over 30 s",
        "the same swarm; the second kill at once, or 0.05–0.6 s after the first",
        8,
        kill_two,
    ),
    Row(
        "leave",
        "a peer leaves gracefully under load (Ctrl-C)",
        "sessions finish or move; 0 failed requests, at most 60 s",
        "a tiny model, six peers, four clients; each peer leaves once and comes back",
        4,
        leave,
    ),
    Row(
        "freeze",
        "a peer of the pipeline is frozen (SIGSTOP)",
        "found within 3 s, rerouted, output identical, added delay p95 < 5 s",
        "a tiny model, every range held twice, every position; the peer goes on later",
        4,
        freeze_peer,
    ),
    Row(
        "vanish",
        "a client vanishes in the middle of its answer",
        "its KV room is free within 30 s",
        "client processes under SIGSTOP; the peers' own status says when nothing is held",
        2,
        vanish,
    ),
    Row(
        "planner",
        "kill -9 of the planner",
        "0 failed requests; a new plan within 30 s (p95)",
        "a tiny model, six peers, four clients; from the kill to another planner's plan",
        4,
        planner,
    ),
    Row(
        "bootstrap",
        "all bootstrap nodes are down",
        "members unaffected; a restart joins from cached peers within 30 s",
        "kill -9 of the only bootstrap node under load; peers leave and start again",
        3,
        bootstrap_down,
    ),
    Row(
        "churn",
        "a random kill or join every 20 s, for ten minutes",
        "at least 99 % of requests complete, 0 wrong or repeated tokens, nothing left behind",
        "a tiny model, six peers as the planner places them, four clients",
        12,
        churn,
    ),
    Row(
        "far",
        "25 ms one way and 1.5 % loss on every line",
        "every answer the same, no failed request",
        "six peers in network namespaces; a switch in user space delays and loses frames",
        4,
        far_apart,
    ),
    Row(
        "half-open",
        "everything to and from one peer is dropped in silence",
        "found within 3 s, rerouted, output identical, added delay p95 < 5 s",
        "six peers in network namespaces; the switch swallows the victim's frames",
        5,
        dead_line,
    ),
    Row(
        "partition",
        "the network is cut in two, and merged",
        "both sides serve if they cover the layers; one plan at most 15 s after the merge",
        "three and three peers in network namespaces, cut for 45 and 20 s",
        5,
        partition,
    ),
    Row(
        "clock",
        "a peer's clock is minutes off",
        "detected, said, that peer stands down; others unaffected",
        "two peers five minutes ahead and behind beside four others, under load",
        3,
        wrong,
    ),
    Row(
        "torn",
        "a crash while the high-water mark is written",
        "old state kept: 1,000 crash points, the mark never falls",
        "SIGKILL of a process that writes as fast as it can",
        2,
        torn,
    ),
    Row(
        "disk",
        "the disk is full",
        "old state kept, and it is said",
        "a tmpfs of 256 KiB, full; a mark and a whole peer",
        1,
        full,
    ),
    Row(
        "weights",
        "a weight file is corrupt",
        "never announced; fetched again; every flipped region found",
        "a byte flipped in each region of the file; a peer whose downloaded file rots (the hub is "
        "on loopback), and one whose own folder did",
        2,
        rotten,
    ),
    Row(
        "messages",
        "stale, duplicate and reordered messages",
        "no effect",
        "property tests of client, entry peer and stages over a hostile network",
        3,
        by_tests(
            "tests/property/test_delivered_tokens.py",
            "tests/property/test_hostile_peers.py",
            "tests/unit/session/test_stage.py",
        ),
    ),
    Row(
        "memory",
        "the device is out of memory",
        "one typed BUSY, the process lives, the announced capacity shrinks",
        "allocations of the CPU engine that fail on purpose",
        1,
        by_tests("tests/unit/engine/test_engine.py", "tests/unit/node/test_serving.py"),
    ),
    Row(
        "mutations",
        "a safeguard is taken out of the code: fencing, validation, bans, the missing-key check …",
        "its tests turn red, each time",
        "`./scripts/mutate`: one safeguard at a time, the tests that are named with it",
        10,
        mutations,
    ),
    Row(
        "grey",
        "a peer becomes ten times as slow (grey failure)",
        "its share down by at least 80 % within 60 s; p95 at most 2× the usual",
        "a peer that runs a tenth of the time, every range held twice, four clients",
        6,
        grey,
    ),
    Row(
        "liar",
        "a peer announces ten times its speed and its line",
        "it is cut down within 3 slots (90 s), and no honest peer is",
        "SmolLM2, five honest peers that know each other; the sixth lies as it joins; what the "
        "swarm's plans make of it, from the first that counts on it",
        5,
        boast,
    ),
    Row(
        "overload",
        "four times as many clients as before",
        "a bounded queue, then typed refusals with Retry-After; memory flat; p95 time to first "
        "token of what is admitted at most 2×",
        "a tiny model, KV room for seven answers at a time; clients that ask without a pause",
        4,
        overload,
    ),
    Row(
        "soak",
        "hours of mixed load",
        "memory and descriptors flat, within 5 %",
        "`./scripts/bench soak`: short and long prompts, seeded sampling, aborts, slow readers, "
        "bursts beyond the KV room, clients that are stopped, frozen or killed",
        60,
        soak,
    ),
)
