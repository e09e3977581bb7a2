"""Makes a checkpoint's folder without its weights: a config.json, and a safetensors file that is a hole.

The file has the names, shapes and types of all tensors, and its bytes were never written: 65B takes no space on a disk
that keeps holes. So the program reads a model as it reads any other (`harness.models.reading`), and no number of it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from harness.config.schema import DType, ModelConfig, ModelKind, ShapeConfig
from harness.files.atomic import write_json
from harness.files.hub import cached_snapshot
from harness.memory.floor import ROBERTA_OFFSET
from harness.memory.layouts import T5_HEAD_SIZE
from harness.models.reading import read_config
from harness.nn.quant import TORCH_DTYPES

FILE_BYTES = 2**31
OUTPUT_LAYER = "lm_head.weight"
_AUTO_CLASSES: dict[ModelKind, Any] = {
    ModelKind.causal: AutoModelForCausalLM,
    ModelKind.seq2seq: AutoModelForSeq2SeqLM,
    ModelKind.classifier: AutoModelForSequenceClassification,
}
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.bool: "BOOL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """One tensor of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_checkpoint(model: ModelConfig, dtype: DType, folder: Path) -> Path:
    """-> the folder, with a checkpoint of the model that has no weights.

    Args:
        model: by its own config.json, where its path or the hub's cache has that, else by the shape in its YAML.
        dtype: of the file's weights: the compute dtype, so that nothing is cast on the way.
        folder: empty.

    Raises:
        ValueError: neither a config.json nor a shape of a known family.
    """
    config = _config(model)
    config.save_pretrained(folder)
    with torch.device("meta"):
        built = _AUTO_CLASSES[model.kind].from_config(config, dtype=TORCH_DTYPES[dtype])
    kept = [*built.named_parameters(), *((n, b) for n, b in built.named_buffers() if n in built.state_dict())]
    if not getattr(config, "scale_decoder_outputs", True) and OUTPUT_LAYER not in dict(kept):
        kept.append((OUTPUT_LAYER, built.get_output_embeddings().weight))  # of T5 v1.1, whose config calls it tied
    _write_files(folder, [_Stored(name=n, dtype=t.dtype, shape=tuple(t.shape)) for n, t in kept])
    return folder


def _write_files(folder: Path, tensors: list[_Stored]) -> None:
    """Writes files and their index. A system may refuse to map a file that is larger than its memory."""
    files: list[list[_Stored]] = [[]]
    for tensor in tensors:
        if files[-1] and sum(other.num_bytes for other in files[-1]) + tensor.num_bytes > FILE_BYTES:
            files.append([])
        files[-1].append(tensor)
    names = {f"model-{place:05}.safetensors": of_file for place, of_file in enumerate(files)}
    for name, of_file in names.items():
        _write_hole(folder / name, of_file)
    index = {tensor.name: name for name, of_file in names.items() for tensor in of_file}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})


def _write_hole(path: Path, tensors: list[_Stored]) -> None:
    """Writes the header of a safetensors file and makes the file as long as if its tensors followed.

    An output layer of its own gets a byte: transformers ties it to the input embeddings where their numbers are equal.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.num_bytes
        header[tensor.name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        if OUTPUT_LAYER in header:
            file.seek(8 + len(text) + header[OUTPUT_LAYER]["data_offsets"][0])
            file.write(b"\1")


def _config(model: ModelConfig) -> PretrainedConfig:
    folder = Path(model.path) if model.path else None
    if folder is None and "/" in model.hub_id and not model.hub_id.startswith("embedded/"):
        folder = cached_snapshot(model.hub_id, model.revision or "main")
    if folder is not None and (folder / "config.json").is_file():
        return read_config(folder)
    family = next((make for prefix, make in _FAMILIES.items() if model.name.startswith(prefix)), None)
    if family is None or model.shape.hidden_size <= 0:
        raise ValueError(
            f"model {model.name}: no config.json in its path or in the hub's cache, and no shape of a known family "
            f"({', '.join(_FAMILIES)}) in its YAML; give a folder with a config.json"
        )
    return family(model)


def _llama_like(kind: Any, model: ModelConfig) -> PretrainedConfig:
    config: PretrainedConfig = kind(
        **_sizes(model.shape),
        num_key_value_heads=model.shape.num_kv_heads,
        head_dim=model.shape.hidden_size // model.shape.num_heads,
        max_position_embeddings=model.max_length,
        tie_word_embeddings=model.shape.tied_embeddings,
        sliding_window=None,
    )
    return config


def _t5(model: ModelConfig) -> PretrainedConfig:
    shape = model.shape
    options: dict[str, Any] = {"tie_word_embeddings": shape.tied_embeddings, "decoder_start_token_id": 0}
    return T5Config(
        vocab_size=shape.vocab_size,
        d_model=shape.hidden_size,
        d_ff=shape.intermediate_size,
        d_kv=T5_HEAD_SIZE,
        num_layers=shape.num_layers,
        num_decoder_layers=shape.num_layers,
        num_heads=shape.num_heads,
        feed_forward_proj="gated-gelu" if shape.gated_mlp else "relu",
        **options,
    )


def _roberta(model: ModelConfig) -> PretrainedConfig:
    return RobertaConfig(
        **_sizes(model.shape), max_position_embeddings=model.max_length + ROBERTA_OFFSET, type_vocab_size=1
    )


def _opt(model: ModelConfig) -> PretrainedConfig:
    shape = model.shape
    return OPTConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        word_embed_proj_dim=shape.hidden_size,
        ffn_dim=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=model.max_length,
        tie_word_embeddings=shape.tied_embeddings,
    )


def _pythia(model: ModelConfig) -> PretrainedConfig:
    return GPTNeoXConfig(
        **_sizes(model.shape),
        max_position_embeddings=model.max_length,
        tie_word_embeddings=model.shape.tied_embeddings,
    )


def _bloom(model: ModelConfig) -> PretrainedConfig:
    shape = model.shape
    return BloomConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, n_layer=shape.num_layers, n_head=shape.num_heads
    )


def _sizes(shape: ShapeConfig) -> dict[str, Any]:
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
    }


_FAMILIES: dict[str, Callable[[ModelConfig], PretrainedConfig]] = {  # by what a model's name begins with
    "llama": partial(_llama_like, LlamaConfig),
    "smollm2": partial(_llama_like, LlamaConfig),
    "mistral": partial(_llama_like, MistralConfig),
    "qwen2": partial(_llama_like, Qwen2Config),
    "qwen3": partial(_llama_like, Qwen3Config),
    "opt": _opt,
    "pythia": _pythia,
    "bloom": _bloom,
    "t5": _t5,
    "roberta": _roberta,
}
