"""`./scripts/bench native`: what native mode of the simulator costs, and what it gives.

Helix's own placement of Llama 2 70B on single24, with as many clients as fit the KV cache, all of
whom ask again at once: 680 virtual seconds as in the artifact's offline runs.
"""

import time

import click

from bench import compiled
from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.helix.setup import published_setup
from helix_p2p.sim.native.workload import room_for, serve

CASE = "single24/70b/ilp"
WARM_UP_S = 60.0
GOAL_CPU_S_PER_S = 18 / 680


@click.command()
@click.option("--seconds", default=680.0, show_default=True, help="Virtual, warm-up included.")
@click.option("--seed", default=1, show_default=True, help="Of the requests.")
def main(seconds: float, seed: int) -> None:
    """Serve one case in native mode and print tokens per second and CPU seconds."""
    setup = published_setup(CASE)
    run = HelixRun(
        feed=room_for(setup), seed=seed, warm_up_s=WARM_UP_S, duration_s=seconds - WARM_UP_S
    )
    began_s = time.process_time()
    figures = serve(setup, run)
    spent_s = time.process_time() - began_s
    core = "compiled" if compiled.in_use() else "interpreted"
    click.echo(
        f"{CASE}, {seconds:.0f} virtual s, seed {seed}, {core}: "
        f"{figures.decode_tokens_per_s:.3f} tokens/s, {figures.events} events, "
        f"{spent_s:.1f} CPU s (goal {GOAL_CPU_S_PER_S * seconds:.1f})"
    )


if __name__ == "__main__":
    main()
