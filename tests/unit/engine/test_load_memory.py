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
from helix_p2p.engine.quantised import Quantisation
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.types import LayerRange

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

torch.set_num_threads(1)
folder, dtype, how = Path(sys.argv[1]), sys.argv[2], Quantisation(sys.argv[3])
manifest = read_manifest(folder, cache=folder / "hashes")
engine = TorchEngine(folder, manifest, EngineConfig(1 << 40, "cpu", dtype, how))
engine.install(engine.prepare(LayerRange(0, 1)))  # what the first load imports does not count
base, held, done = anonymous_bytes(), engine.weight_bytes, threading.Event()
peak = [base]

def watch():
    while not done.wait(0.001):
        peak[0] = max(peak[0], anonymous_bytes())

watching = threading.Thread(target=watch)
watching.start()
prepared = engine.prepare(LayerRange(1, manifest.layers))
done.set()
watching.join()
engine.install(prepared)
print((peak[0] - base) / (engine.weight_bytes - held))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of 6.9 MB, in bfloat16; their largest matrix is a fifth of that."""
    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_hidden_layers=17,
        vocab_size=1000,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("dtype", "how"),
    [
        ("f32", "none"),
        ("bf16", "none"),
        ("bf16", "int8"),
        ("f32", "int8"),
        ("bf16", "nf4"),
        ("f32", "nf4"),
    ],
)
def test_a_load_takes_at_most_a_quarter_more_than_its_slice(
    folder: Path, dtype: str, how: str
) -> None:
    """Slices of 16 layers, 29 MB (nf4) to 220 MB, so that what a load needs beside them shows."""
    said = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), dtype, how],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 0.9 < float(said.stdout) < 1.25
