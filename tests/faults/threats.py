"""The threat table: what an attacker may try, what stands against it, and which tests show it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Threat:
    """One row; `tests` are files, or tests as `file::name`."""

    threat: str
    defence: str
    tests: tuple[str, ...] = ()


THREATS: tuple[Threat, ...] = (
    Threat(
        "malicious planner",
        "every peer validates every plan; two plans of one epoch convict their signer, and nobody "
        "pushes the first out of memory",
        (
            "tests/unit/planning/test_validate.py",
            "tests/unit/membership/test_adoption.py",
            "tests/unit/membership/test_first_plans.py",
        ),
    ),
    Threat(
        "split brain, stale planner",
        "a total order of plans; epochs",
        (
            "tests/simulation/test_membership.py",
            "tests/property/test_membership.py",
            "./scripts/faults partition",
        ),
    ),
    Threat(
        "planner leaves peers out", "local audit, alarm", ("tests/simulation/test_membership.py",)
    ),
    Threat(
        "DHT overwrite, record bomb",
        "own validator, owner-only subkeys, size and expiry caps; reading is open (SECURITY)",
        ("tests/integration/net/test_dht.py", "tests/unit/membership/test_records.py"),
    ),
    Threat(
        "Sybil, eclipse",
        "invites; several bootstrap nodes; cached peers; caps per address range (ADR 25)",
        (
            "tests/simulation/test_eclipse.py",
            "tests/unit/membership/test_crowd.py",
            "tests/simulation/test_membership.py",
        ),
    ),
    Threat(
        "replayed record",
        "sequence, nonce window",
        ("tests/unit/membership/test_view.py", "tests/unit/membership/test_handshake.py"),
    ),
    Threat(
        "outsider, man in the middle",
        "libp2p's encrypted channel, pinned PeerID, certificate when a stream opens",
        ("tests/unit/membership/test_credentials.py", "tests/unit/net/test_channel.py"),
    ),
    Threat(
        "tampered weights",
        "manifest with SHA-256 per file; safetensors only",
        ("tests/unit/engine/test_manifest.py", "./scripts/faults weights"),
    ),
    Threat(
        "poison activations",
        "dtype, shape, finite and norm bounds on each hop",
        (
            "tests/unit/engine/test_engine.py",
            "tests/unit/session/test_stage.py",
        ),
    ),
    Threat(
        "inflated hardware or bandwidth claims",
        "what most witnesses measured beats what is claimed (ADR 22)",
        (
            "tests/simulation/test_liars.py",
            "tests/unit/cluster/test_belief.py",
            "./scripts/faults liar",
        ),
    ),
    Threat(
        "wrong compute",
        "a sample of steps is run again elsewhere, with blame (ADR 19); not where one peer alone "
        "holds a layer",
        ("tests/integration/serving/test_rechecks.py", "tests/unit/routing/test_recheck.py"),
    ),
    Threat(
        "plans that rest on words nobody said",
        "announcements are pulled by hash, bounded, of who sent the plan (ADR 21)",
        ("tests/unit/membership/test_gaps.py", "tests/simulation/test_storm.py"),
    ),
    Threat(
        "decode and size bombs",
        "size checked before allocation, caps",
        ("tests/unit/wire/test_framing.py", "tests/unit/net/test_links.py"),
    ),
    Threat(
        "KV hoarding, slow streams, floods",
        "reservations that expire, idle timeouts, quotas per identity, a fair queue",
        (
            "tests/simulation/test_hoarding.py",
            "tests/unit/routing/test_shares.py",
            "tests/unit/session/test_entry.py",
            "tests/unit/node/test_clients.py",
        ),
    ),
    Threat("leaked prompts", "stated plainly; invite-only swarms"),
)
