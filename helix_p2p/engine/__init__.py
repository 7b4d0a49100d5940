"""Runs slices of a model: loading, KV pool, batches, sampling. Needs torch.

Importing transformers makes torch's compiler, which is not used here, create a folder of its own in
the temporary folder, and leave it there. It is given one in the user's cache instead, where that
can be written.
"""

import os
from pathlib import Path

import platformdirs

_cache = Path(os.environ.get("HELIX_CACHE") or platformdirs.user_cache_dir("helix-p2p"))
if os.access(next(folder for folder in (_cache, *_cache.parents) if folder.exists()), os.W_OK):
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache / "inductor"))
