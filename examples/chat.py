"""Stream one chat answer from a swarm: python examples/chat.py helix1… "Why is the sky blue?"."""

import asyncio
import sys

from helix_p2p import HelixError, Swarm


async def main(invite: str, question: str) -> None:
    """Ask, print the answer as it comes, then what it took."""
    messages = [{"role": "user", "content": question}]
    async with (
        Swarm.connect(invite) as swarm,
        swarm.chat_stream(messages, max_tokens=300, temperature=0.7) as stream,
    ):
        async for piece in stream:
            print(piece, end="", flush=True)
    print(f"\n\n{stream.completion.usage}")


try:
    asyncio.run(main(sys.argv[1], sys.argv[2]))
except HelixError as error:
    sys.exit(str(error))
