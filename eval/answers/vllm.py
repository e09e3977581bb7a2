"""Lets vLLM answer the prompts, where it is installed: `--engine vllm` of `eval generate`.

Written against vLLM's offline interface (`LLM.generate` with token prompts, one `SamplingParams` and one
`LoRARequest` a prompt). NOT RUN HERE: vLLM needs a GPU and can't be installed in this project's environment;
tests/unit/eval/answers/test_vllm.py checks only which arguments reach it. Its kernels round otherwise than ours and its
sampling has random streams of its own, so answers are tied to the engine and never mixed with ours.

What it serves: causal bases unquantized, or nf4 with double quantization in blocks of 64 (vLLM's in-flight
bitsandbytes), with LoRA or rsLoRA adapters, several of one base in one call.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from eval.answers.sequences import Decoded, DecodingRequest, DecodingSettings
from eval.systems import Answerer, System, require_causal, require_same_base, require_same_tokenizer
from harness.config.schema import SHARED_BASE_METHODS, PathsConfig, QuantConfig, QuantMethod
from harness.files.hub import Missing
from harness.models.convert import checkpoint_folder
from harness.models.locate import ModelSource, folder_fingerprint, locate_model, tokenizer_fingerprint
from harness.runs.adapter_files import ADAPTER_CONFIG

CHUNK_PROMPTS = 256  # prompts in a call: answers reach the disk after each call
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's kernels serve


@dataclass(slots=True, kw_only=True)
class VllmBase:
    """A base in vLLM, and what generating needs to know of it."""

    llm: Any
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    fingerprint: str  # sha256 over the checkpoint's weight files
    tokenizer_fingerprint: str  # sha256 over its tokenizer's and chat template's files
    quant: QuantConfig
    max_length: int
    eos_tokens: frozenset[int]
    loras: dict[str, Any] = field(default_factory=dict)  # member -> LoRARequest

    def model_sha256(self, system: Answerer) -> str:
        """A digest of base, quantization and adapter, which differs from our own engine's for the same model."""
        weights = sorted((system.folder / "adapter").glob("*.safetensors")) if system.member is not None else []
        digest = hashlib.sha256(json.dumps(["vllm", self.fingerprint, self.quant.method.value]).encode())
        for path in [*weights, *(path.parent / ADAPTER_CONFIG for path in weights)]:
            digest.update(path.read_bytes())
        return digest.hexdigest()


def missing_vllm() -> str | None:
    """The message with the remedy where vLLM isn't installed; None where it is."""
    if importlib.util.find_spec("vllm") is not None:
        return None
    return "--engine vllm: vLLM is not installed; pip install vllm on a machine with a GPU, or leave --engine out"


def load_vllm(systems: Sequence[System], paths: PathsConfig) -> VllmBase:
    """One base in vLLM for systems of one group, their adapters registered.

    Raises:
        ValueError: vLLM isn't installed, weights that aren't there, or a kind of run that it doesn't serve.
    """
    if problem := missing_vllm():
        raise ValueError(problem)
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")  # this process may have asked CUDA: no fork
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    spec = systems[0].spec
    for system in systems:
        _require_served(system)
    source = locate_model(spec.model, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    folder = checkpoint_folder(source, Path(paths.cache))
    fingerprint, of_tokenizer = folder_fingerprint(folder), tokenizer_fingerprint(folder)
    require_same_base(systems, fingerprint, source.location)
    require_same_tokenizer(systems, of_tokenizer, source.location)
    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    max_length = min(source.max_length, getattr(config, "max_position_embeddings", source.max_length))
    ranks = [system.spec.adapter.lora_r for system in systems if system.member is not None]
    dtype = spec.quant.compute_dtype.value
    options: dict[str, Any] = {"model": str(folder), "dtype": dtype, "max_model_len": max_length}
    if spec.quant.method is QuantMethod.nf4:
        options["quantization"] = "bitsandbytes"
    if ranks:
        options |= {
            "enable_lora": True,
            "max_loras": len(ranks),
            "max_lora_rank": next(rank for rank in _RANKS if rank >= max(ranks)),
        }
    eos = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    tuned = [system for system in systems if system.member is not None]
    return VllmBase(
        llm=LLM(**options),
        tokenizer=tokenizer,
        source=source,
        fingerprint=fingerprint,
        tokenizer_fingerprint=of_tokenizer,
        quant=spec.quant,
        max_length=max_length,
        eos_tokens=frozenset(token for token in [*eos, tokenizer.eos_token_id] if isinstance(token, int)),
        loras={
            str(system.member): LoRARequest(str(system.member), number, str(system.folder / "adapter"))
            for number, system in enumerate(tuned, start=1)
        },
    )


def decode_vllm(
    base: VllmBase,
    requests: Sequence[DecodingRequest],
    settings: DecodingSettings,
    eos_tokens: frozenset[int],
    stop: Sequence[str],
) -> Iterator[Decoded]:
    """As `eval.answers.decoding.decode`, a chunk of prompts at a time."""
    from vllm import SamplingParams

    for start in range(0, len(requests), CHUNK_PROMPTS):
        chunk = requests[start : start + CHUNK_PROMPTS]
        outputs = base.llm.generate(
            [{"prompt_token_ids": list(request.tokens)} for request in chunk],
            sampling_params=[
                SamplingParams(
                    max_tokens=min(settings.max_new_tokens, base.max_length - len(request.tokens)),
                    temperature=0.0 if settings.greedy else settings.temperature,
                    top_p=1.0 if settings.greedy else settings.top_p,
                    seed=request.seed,
                    stop=list(stop),
                    stop_token_ids=sorted(eos_tokens),
                    include_stop_str_in_output=True,
                )
                for request in chunk
            ],
            lora_request=[None if r.member is None else base.loras[r.member] for r in chunk] if base.loras else None,
            use_tqdm=False,
        )
        for place, output in enumerate(outputs, start=start):
            yield _decoded(place, output.outputs[0], eos_tokens)


def _decoded(index: int, completion: Any, eos_tokens: frozenset[int]) -> Decoded:
    tokens = tuple(int(token) for token in completion.token_ids)
    if completion.finish_reason == "length":
        return Decoded(index=index, tokens=tokens, finish_reason="length")
    if isinstance(completion.stop_reason, str):
        return Decoded(index=index, tokens=tokens, finish_reason="stop")
    ends_so = bool(tokens) and tokens[-1] in eos_tokens
    return Decoded(index=index, tokens=tokens[:-1] if ends_so else tokens, finish_reason="eos")


def _require_served(system: System) -> None:
    """Raises ValueError for a run that vLLM would serve otherwise than it was trained, or not at all."""
    spec = system.spec
    require_causal(system.name, spec.model.kind)
    if spec.adapter.method not in SHARED_BASE_METHODS:
        raise ValueError(
            f"{system.name}: adapter.method={spec.adapter.method.value}: --engine vllm serves lora and rslora"
        )
    if system.member is not None and spec.adapter.lora_r > _RANKS[-1]:
        raise ValueError(
            f"{system.name}: adapter.lora_r={spec.adapter.lora_r}; --engine vllm serves up to {_RANKS[-1]}"
        )
    quant = spec.quant
    is_nf4 = quant.method is QuantMethod.nf4 and quant.double_quant and quant.block_size == 64
    if quant.method is not QuantMethod.none and not is_nf4:
        raise ValueError(
            f"{system.name}: quant={quant.name}: --engine vllm serves quant=nf4 (double quantization, blocks of 64) "
            f"and unquantized bases; leave --engine out"
        )
