"""Every duration of membership in one frozen value, so that tests and demos can scale them all.

The defaults are those of docs/adr/0004; `scaled` keeps their proportions, on which the protocol's
promises rest: a lease outlives several beats, a rank's step outlives a round of gossip. The slots
of epochs are part of the protocol and not among them (`types`).
"""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class MembershipTiming:
    """Durations, in seconds.

    Attributes:
        ping_s: Between two pings of one member to its targets.
        probe_s: A probe that is not answered in this time has failed.
        silence_s: Shortest silence after which a monitored member is suspected.
        silence_most_s: Longest; the detector adapts between the two to each link.
        evict_s: A suspicion that nobody shares evicts after this much more silence.
        stale_s: A member that nobody here pings is gone when its sequence has not risen for this.
        publish_s: Between two writes of an unchanged announcement to the DHT.
        publish_gap_s: Least time between two announcements of a changing peer.
        record_life_s: How long a record lives in the DHT.
        look_up_s: Between two reads of the DHT while the swarm is known.
        look_up_alone_s: Likewise while no other member is known.
        beat_s: Between two beats of the planner.
        lease_s: A lease not renewed for this lapses.
        rank_step_s: Candidate i steps in i of these after candidate 0.
        jitter_s: Up to this is added to each step-in.
        planner_lost_s: Wait before candidate 0 steps in when the planner is known to be gone.
        isolation_s: A planner that hears nobody for this steps down.
        settle_s: Before the first plan of a swarm, after the last change of membership.
        settle_most_s: Longest wait for the swarm to settle.
        first_rank_step_s: Rank step before the first plan, where nobody holds a lease.
        replan_s: From a join or a change of weight to re-planning, so that a burst costs one plan.
        replan_most_s: Longest that a steady stream of joins can put off re-planning.
        replan_calm_s: Likewise in a large swarm, where one peer's coming or going changes little.
        improve_s: From a change of plan to the search for a better one, so that people who wait and
            peers that load have the machines to themselves.
        improve_calm_s: Likewise in a large swarm, where the search is long and gains little.
        improve_most_s: Longest wait for peers that are to load a plan's layers before the search.
        retry_plan_s: After a solver failed.
        grace_s: How long the previous plan is still accepted.
        pull_s: A plan asked for and not received in this time will not come from there.
        hedge_s: An answer that takes longer is asked of another peer, too.
        skew_s: A clock this far from the others' stands its owner down.
        rejected_s: How long a refused plan is remembered, and not validated again.
    """

    ping_s: float = 4.0
    probe_s: float = 1.5
    silence_s: float = 8.0
    silence_most_s: float = 16.0
    evict_s: float = 8.0
    stale_s: float = 95.0
    publish_s: float = 30.0
    publish_gap_s: float = 0.5
    record_life_s: float = 90.0
    look_up_s: float = 30.0
    look_up_alone_s: float = 1.5
    beat_s: float = 5.0
    lease_s: float = 20.0
    rank_step_s: float = 5.0
    jitter_s: float = 1.0
    planner_lost_s: float = 2.0
    isolation_s: float = 10.0
    settle_s: float = 3.0
    settle_most_s: float = 20.0
    first_rank_step_s: float = 2.0
    replan_s: float = 2.0
    replan_most_s: float = 6.0
    replan_calm_s: float = 30.0
    improve_s: float = 8.0
    improve_calm_s: float = 120.0
    improve_most_s: float = 300.0
    retry_plan_s: float = 5.0
    grace_s: float = 60.0
    pull_s: float = 3.0
    hedge_s: float = 1.0
    skew_s: float = 30.0
    rejected_s: float = 30.0

    def __post_init__(self) -> None:
        if any(not getattr(self, field.name) > 0 for field in fields(self)):
            raise ValueError("every membership duration is positive")
        if self.lease_s < 2 * self.beat_s or self.silence_most_s < self.silence_s:
            raise ValueError("a lease outlives two beats; the longest silence is not the shortest")

    def scaled(self, factor: float) -> "MembershipTiming":
        """All durations times `factor`, but for those of the DHT and of the wall clock."""
        keep = {"record_life_s", "skew_s", "stale_s", "publish_s"}
        return replace(
            self,
            **{
                field.name: getattr(self, field.name) * factor
                for field in fields(self)
                if field.name not in keep
            },
        )


@dataclass(frozen=True, slots=True)
class Now:
    """The time of one input.

    Attributes:
        s: Monotonic seconds; every interval is measured on it.
        unix_s: Wall clock; only for slots, expiries and finding skew.
    """

    s: float
    unix_s: float
