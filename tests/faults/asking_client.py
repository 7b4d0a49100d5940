"""A client in a process of its own, to be frozen: asks once, says each token as a line of JSON.

python asking_client.py INVITE TOKENS
"""

import asyncio
import json
import sys

from helix_p2p import Swarm


async def main(invite: str, tokens: int) -> None:
    """Ask and tell."""
    async with Swarm.connect(invite) as swarm:
        messages = [{"role": "user", "content": "Tell me about the sea."}]
        stream = swarm.chat_stream(messages, max_tokens=tokens, ignore_eos=True)
        async for piece in stream:
            for token in piece.tokens:
                print(json.dumps({"event": "token", "token": token}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
