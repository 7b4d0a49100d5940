"""Loading a slice never needs much more memory than the slice, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CHILD = """
import sys, threading, time
from pathlib import Path
import torch
from helix_p2p.engine.manifest import read_manifest
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.types import LayerRange

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
folder = Path(sys.argv[1])
manifest = read_manifest(folder, cache=folder / "hashes")
engine = TorchEngine(folder, manifest, EngineConfig(1 << 40))
engine.install(engine.prepare(LayerRange(0, 1)))  # what the first load imports does not count
base, held, done = anonymous_bytes(), engine.weight_bytes, threading.Event()
peak = [base]

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous_bytes())

watching = threading.Thread(target=watch)
watching.start()
prepared = engine.prepare(LayerRange(1, manifest.layers))
done.set()
watching.join()
engine.install(prepared)
print((peak[0] - base) / (engine.weight_bytes - held))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_load_takes_at_most_a_quarter_more_than_its_slice(tmp_path: Path) -> None:
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_hidden_layers=17,
        vocab_size=1000,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    said = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert 0.9 < float(said.stdout) < 1.25
