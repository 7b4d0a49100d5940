"""A long prompt's first token, when it comes for the first time and when its beginning is known.

Three peers, one client. Of each prompt: the first token of a prompt never seen, then of one that
begins alike and ends otherwise, as the next turn of a chat or the next question to one document.

    ./scripts/bench reuse [--prompt 1000] [--prompts 5] [--json FILE]
"""

import argparse
import statistics
import sys
from pathlib import Path

from bench.report import Line, Report
from bench.served import prompts, run, served, small_model
from bench.stall import MEMORY_MB, feed
from helix_p2p import Swarm

OTHER_TOKENS = 32
"""What is new at the end of the second prompt."""
MOST_AGAIN = 0.5
"""Time to first token with a known beginning, in times of that without."""
WARM_UP_TOKENS = 100


async def reuse(length: int, count: int, report: Report) -> None:
    """Measure and report."""
    new: list[float] = []
    again: list[float] = []
    async with served(small_model(), MEMORY_MB) as made, Swarm.connect(await made.guest()) as swarm:
        vocabulary = swarm.manifest.vocab_size
        await feed(swarm, prompts(1, vocabulary, WARM_UP_TOKENS)[0])
        for prompt in prompts(count, vocabulary, length):
            for times, asked in (
                (new, prompt),
                (again, [*prompt[:-OTHER_TOKENS], *reversed(prompt[-OTHER_TOKENS:])]),
            ):
                began_s, first_s = await feed(swarm, asked)
                times.append(first_s - began_s)
    new_s, again_s = statistics.median(new), statistics.median(again)
    report.add(Line("first token", "of a new prompt", f"{new_s * 1e3:.0f} ms"))
    said = f"{again_s * 1e3:.0f} ms"
    report.add(Line("first token", f"all but {OTHER_TOKENS} tokens known", said))
    ratio = statistics.median(b / a for a, b in zip(new, again, strict=True))
    report.add(
        Line(
            "first token",
            "known / new",
            f"{ratio:.2f}",
            f"at most {MOST_AGAIN:g}",
            ratio <= MOST_AGAIN,
            {"new_s": new_s, "again_s": again_s},
        )
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench reuse", description=__doc__)
    parser.add_argument("--prompt", type=int, default=1000, metavar="TOKENS")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = Report(f"prompts of {options.prompt} tokens, new and with a known beginning")
    run(reuse(options.prompt, options.prompts, report))
    sys.exit(report.finish(options.json))


if __name__ == "__main__":
    main()
