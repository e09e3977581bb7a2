"""Makes a cheap sign of a checkpoint, by which a job notices that weights changed after its plan.

A full sha256 of 65B weights takes minutes, too long for a plan. The sign hashes small files whole and blocks spread
over large ones, so it changes with any training or conversion, and is the same for a copy on another machine.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from harness.models.locate import ModelSource, is_decisive, tokenizer_fingerprint

_WHOLE_BYTES = 16 << 20  # files up to here are hashed whole
_BLOCK_BYTES = 64 << 10
_NUM_BLOCKS = 64


def checkpoint_signs(source: ModelSource) -> dict[str, str]:
    """-> a sign of the weights and one of the tokenizer (GGUF: of both in one); none for a model still on the hub."""
    if source.kind == "gguf":
        return {"weights": sampled_sha256(Path(source.location))}
    if source.kind != "folder":
        return {}
    folder = Path(source.location)
    files = sorted(file for file in folder.iterdir() if is_decisive(file))
    lines = "".join(f"{file.name}:{sampled_sha256(file)}\n" for file in files)
    return {"weights": hashlib.sha256(lines.encode()).hexdigest(), "tokenizer": tokenizer_fingerprint(folder)}


def sampled_sha256(path: Path) -> str:
    """The sha256 of a small file; of a large one that of its size and of evenly spread blocks, both ends included."""
    status = path.stat()
    return _sampled(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sampled(path: Path, size: int, _modified_ns: int) -> str:
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, lambda: digest).hexdigest()
        for number in range(_NUM_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * number // (_NUM_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
