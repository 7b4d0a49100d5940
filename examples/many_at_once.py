"""Send many prompts over one connection: python examples/many_at_once.py helix1… < prompts.txt.

The swarm batches what comes at the same time, so this is far faster than one after another.
"""

import asyncio
import sys

from helix_p2p import HelixError, Swarm

AT_ONCE = 16


async def main(invite: str, prompts: list[str]) -> None:
    """Answer every line of the input, in any order, at most `AT_ONCE` at a time."""
    turn = asyncio.Semaphore(AT_ONCE)
    async with Swarm.connect(invite) as swarm:

        async def ask(number: int, prompt: str) -> int:
            async with turn:
                try:
                    answer = await swarm.generate(prompt, max_tokens=64, stop="\n")
                except HelixError as error:
                    print(f"{number}: failed: {error}", file=sys.stderr)
                    return 0
            print(f"{number}: {answer.text}")
            return answer.usage.completion_tokens

        started_s = asyncio.get_running_loop().time()
        tokens = sum(await asyncio.gather(*(ask(i, p) for i, p in enumerate(prompts))))
        total_s = asyncio.get_running_loop().time() - started_s
    print(f"{tokens / total_s:.1f} tokens/s over {len(prompts)} prompts", file=sys.stderr)


asyncio.run(main(sys.argv[1], [line.rstrip("\n") for line in sys.stdin if line.strip()]))
