"""Use a swarm from an ordinary script or a notebook: python examples/without_await.py helix1…."""

import sys

from helix_p2p import SyncSwarm

with SyncSwarm.connect(sys.argv[1]) as swarm:
    conversation = [{"role": "system", "content": "Answer in one sentence."}]
    for question in ("Why is the sky blue?", "And why is it red in the evening?"):
        conversation.append({"role": "user", "content": question})
        print(f"> {question}")
        with swarm.chat_stream(conversation, max_tokens=100) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print()
        conversation.append({"role": "assistant", "content": stream.text})
