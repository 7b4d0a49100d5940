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
prepared = engine.prepare(LayerRange(int(sys.argv[4]), int(sys.argv[5])))
done.set()
watching.join()
engine.install(prepared)
print((peak[0] - base) / (engine.weight_bytes - held))
"""

LAYERS = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of 6.9 MB, in bfloat16; their largest matrix is a fifth of that, the head 16 MB."""
    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1536,
        num_attention_heads=8,
        num_hidden_layers=LAYERS,
        vocab_size=16000,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("dtype", "how", "first", "end"),
    [
        ("f32", "none", 1, LAYERS - 1),
        ("bf16", "none", 1, LAYERS - 1),
        ("bf16", "int8", 1, LAYERS - 1),
        ("f32", "int8", 1, LAYERS - 1),
        ("bf16", "nf4", 1, LAYERS - 1),
        ("f32", "nf4", 1, LAYERS - 1),
        ("f32", "none", LAYERS - 3, LAYERS),
    ],
)
def test_a_load_takes_at_most_a_quarter_more_than_its_slice(
    folder: Path, dtype: str, how: str, first: int, end: int
) -> None:
    """Slices of 29 MB (nf4) to 220 MB, so that what a load needs beside them shows; the last one is
    three layers and the head.
    """
    said = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), dtype, how, str(first), str(end)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert 0.9 < float(said.stdout) < 1.25
