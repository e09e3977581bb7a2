"""Writes the model card (README.md) of an exported adapter.

Everything in the card is read from the run's record and its evaluations;
what isn't known is left out. No path of the machine that trained it gets in. The front matter's keys are the
model hub's (https://huggingface.co/docs/hub/model-cards).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.config.schema import WHOLE_METHODS, AdapterConfig, AdapterMethod, DType, QuantConfig, QuantMethod
from harness.export.base import EMBEDDED, hub_base
from harness.methods.keys import peft_values
from harness.methods.table import entry_of
from harness.runs.adapter_files import RESIDUAL_FILE
from harness.runs.compatibility import RESIDUAL_METHODS
from harness.runs.merged import MergeRecipe
from harness.runs.record import RunRecord
from harness.runs.scores import MeasuredScore, measured_scores
from harness.runs.spec import RunSpec

UNKNOWN_LICENSE = "unknown"


def model_card(record: RunRecord, run_folder: Path, license_id: str = UNKNOWN_LICENSE, merged: bool = False) -> str:
    """The README.md of an exported run.

    Args:
        record: of the run.
        run_folder: `runs/<run_id>`; its `eval/` is read.
        license_id: a licence's identifier on the hub; nothing is assumed.
        merged: the card of a whole checkpoint instead of an adapter's.
    """
    spec = RunSpec.from_dict(record.spec, str(run_folder))
    full = spec.adapter.method in WHOLE_METHODS
    merged = merged and not full
    kind = (
        f"a model with {trained_weights(spec.adapter)} finetuned" if full else f"a {spec.adapter.method_name} adapter"
    )
    kind += " merged into its base" if merged else ""
    sections = [
        _front_matter(spec, license_id, merged),
        f"# {record.label}\n\n{kind.capitalize()}, {_made(spec)} by qlora-harness (run `{record.run_id}`).",
        _section("Base", _base_rows(record, spec)),
        *_origin(record, spec),
        _scores(run_folder / "eval", merged, full),
        "## How to load\n\n```python\n" + snippet(spec, merged or full) + "```\n\n" + _loading_note(spec, merged),
        *([_section("Proof of identity", _identity_rows(record.identity))] if record.identity else []),
        _section("Made with", _provenance_rows(record)),
    ]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _made(spec: RunSpec) -> str:
    return "trained" if spec.merged is None else "merged from trained ones"


def _origin(record: RunRecord, spec: RunSpec) -> list[str]:
    """What the weights come from: data and training, or the runs that were merged."""
    if spec.merged is not None:
        return [_section("Merge", _merge_rows(spec.merged, spec.adapter))]
    return [_section("Data", _data_rows(record, spec)), _section("Recipe", _recipe_rows(record, spec))]


def trained_weights(adapter: AdapterConfig) -> str:
    """In words, which of a model's own weights a method trains."""
    share = "every weight" if adapter.method is AdapterMethod.full else "a half of each layer's weights"
    return share if adapter.layers is None else f"{share} in the layers {', '.join(map(str, adapter.layers))}"


def snippet(spec: RunSpec, merged: bool) -> str:
    """Python that loads the export; `MODEL`, `BASE` and `ADAPTER` at its top are folders or hub ids."""
    dtype = f"torch.{_dtype(spec.quant)}"
    if merged:
        return (
            "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'MODEL = "."  # this folder, or its hub id\n\n'
            f"model = AutoModelForCausalLM.from_pretrained(MODEL, dtype={dtype})\n"
            "tokenizer = AutoTokenizer.from_pretrained(MODEL)\n"
        )
    quantization = _quantization_config(spec.quant, dtype)
    names = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantization else "")
    hub_id = hub_base(spec.model)
    base = f'BASE = "{hub_id}"\n' if hub_id else f'BASE = "path/to/the/base"  # {spec.model.hub_id}, see above\n'
    revision = f'    revision="{spec.model.revision}",\n' if hub_id else ""
    return (
        f"import torch\nfrom peft import PeftModel\nfrom transformers import {names}\n\n"
        f'{base}ADAPTER = "."  # this folder, or its hub id\n\n'
        f"base = AutoModelForCausalLM.from_pretrained(\n    BASE,\n{revision}    dtype={dtype},\n{quantization})\n"
        "model = PeftModel.from_pretrained(base, ADAPTER)\n"
        "tokenizer = AutoTokenizer.from_pretrained(BASE)\n"
    )


def inexact(spec: RunSpec, merged: bool) -> str | None:
    """Says what other programs compute differently from how the adapter was trained; None if nothing differs."""
    method, quant = spec.adapter.method, spec.quant
    if merged or method not in RESIDUAL_METHODS:
        return None
    if quant.method is QuantMethod.none:
        if quant.compute_dtype is DType.float32:
            return None
        return f"{method.value} moved weights into the adapter: on the plain base it is exact up to rounding in 16 bits"
    if spec.adapter.bits is not None:
        return (
            f"{method.value} was trained on the weights less the adapter's start, each layer rounded to a format of "
            f"its own, {spec.adapter.bits:g} bits a weight together. Plain PEFT on {quant.method.value} of the plain "
            f"weights computes something else; qlora-harness loads it exactly (by {RESIDUAL_FILE}), and a forced merge "
            "writes the model that was trained"
        )
    return (
        f"{method.value} was trained on {quant.method.value} of the weights less the adapter's start. Plain PEFT on "
        f"{quant.method.value} of the plain weights is a quantization error off; qlora-harness loads it exactly (by "
        f"{RESIDUAL_FILE}), and a forced merge writes the model that was trained"
    )


def _front_matter(spec: RunSpec, license_id: str, merged: bool) -> str:
    values: dict[str, Any] = {}
    full = spec.adapter.method in WHOLE_METHODS
    if (base := hub_base(spec.model)) is not None:
        relation = "finetune" if full else "merge" if merged else "adapter"
        values |= {"base_model": base, "base_model_relation": relation}
    data = "" if spec.dataset is None or spec.dataset.path is not None else spec.dataset.hub_id
    if data.count("/") == 1 and not data.startswith(EMBEDDED):
        values["datasets"] = [data]
    values["library_name"] = "transformers" if merged or full else "peft"
    values["license"] = license_id
    values["pipeline_tag"] = "text-generation"
    quantized = spec.quant.method is not QuantMethod.none
    kind = (
        [f"{spec.adapter.method_name}-finetuning"]
        if full
        else ["qlora" if quantized else "lora", spec.adapter.method_name]
    )
    tags = [*kind, "qlora-harness"]
    values["tags"] = list(dict.fromkeys(tags))
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _base_rows(record: RunRecord, spec: RunSpec) -> list[tuple[str, str]]:
    quant, model = spec.quant, spec.model
    stored = quant.method.value if quant.method is not QuantMethod.none else "not quantized"
    if quant.method in (QuantMethod.nf4, QuantMethod.fp4):
        stored += f", blocks of {quant.block_size}" + (", double quantization" if quant.double_quant else "")
    source = "" if hub_base(model) else " (ships with a package)" if model.hub_id.startswith(EMBEDDED) else " (local)"
    return [
        ("model", f"{_name_only(model.hub_id)}{source}"),
        ("revision", model.revision),
        ("sha256 of its weight files", f"`{record.base_fingerprint}`"),
        ("quantization while training", stored),
        ("compute dtype", quant.compute_dtype.value),
    ]


def _data_rows(record: RunRecord, spec: RunSpec) -> list[tuple[str, str]]:
    data = spec.dataset
    assert data is not None
    where = Path(data.path).name if data.path is not None else data.hub_id
    rows = [("dataset", f"{data.name} ({_name_only(where)})"), ("split", data.split), ("format", data.format)]
    if data.path is None:
        rows.append(("revision", data.revision))
    rows += [
        ("sha256", f"`{record.data_fingerprint}`" if record.data_fingerprint else "not recorded"),
        ("rows used", f"{record.num_examples:,}"),
        ("cut to", f"{data.source_max_tokens} input and {data.target_max_tokens} output tokens"),
        ("inputs, outputs cut", f"{record.num_truncated_sources:,}, {record.num_truncated_targets:,}"),
        ("loss on", "inputs and outputs" if data.train_on_source else "outputs"),
    ]
    return rows


def _recipe_rows(record: RunRecord, spec: RunSpec) -> list[tuple[str, str]]:
    adapter, train = spec.adapter, spec.train
    assert train is not None
    of_adapter = [
        *_size_rows(adapter),
        ("layers", ", ".join(adapter.targets)),
        *([] if adapter.layers is None else [("of the blocks", ", ".join(map(str, adapter.layers)))]),
    ]
    return [
        *([("trained", trained_weights(adapter))] if adapter.method in WHOLE_METHODS else of_adapter),
        ("optimizer", f"{record.optimizer_used}, betas {train.adam_beta1}, {train.adam_beta2}"),
        ("weight decay, gradient norm", f"{train.weight_decay:g}, {train.max_grad_norm:g}"),
        ("learning rate", f"{train.learning_rate:g}, {train.schedule.value}, {train.warmup_steps} warm-up steps"),
        ("batch, steps", f"{train.batch_size}, {record.num_steps:,}"),
        ("layout", train.mode.value),
        ("seeds of weights, of order", f"{train.seed}, {train.data_seed}"),
        ("target tokens seen", f"{record.target_tokens:,}"),
        (
            "final training loss",
            "not recorded" if record.final_loss is None else f"{record.final_loss:.4f} nats a token",
        ),
    ]


def _merge_rows(recipe: MergeRecipe, adapter: AdapterConfig) -> list[tuple[str, str]]:
    optional = {"density": recipe.density, "seed": recipe.seed}
    return [
        ("method, by PEFT's name", recipe.method.value),
        *[(what, f"{value:g}") for what, value in optional.items() if value is not None],
        ("rank r, alpha", f"{adapter.lora_r}, {adapter.lora_alpha}"),
        ("layers", ", ".join(adapter.targets)),
        *[
            (f"run {of.run_id}", f"weight {of.weight:g}, sha256 of its adapter `{of.adapter_sha256}`")
            for of in recipe.parents
        ],
    ]


def _identity_rows(identity: dict[str, Any]) -> list[tuple[str, str]]:
    """What was checked of the method before the run's first step (`harness.identity`)."""
    trained = f"{identity['num_trained']:,} ({identity['formula']})"
    return [("method", f"{identity['method']} in {identity['family']}"), ("numbers trained", trained)] + [
        (check, result) for check, result in identity["checks"].items()
    ]


def _size_rows(adapter: AdapterConfig) -> list[tuple[str, str]]:
    """The numbers that the method has, and no others."""
    entry = entry_of(adapter)
    if adapter.method is not AdapterMethod.peft or entry is None:
        return [("rank r, alpha, dropout", f"{adapter.lora_r}, {adapter.lora_alpha}, {adapter.lora_dropout}")]
    return [("method", f"{entry.title} ({entry.paper})")] + [
        (f"PEFT's {k}", str(v)) for k, v in peft_values(adapter).items()
    ]


def _scores(folder: Path, merged: bool, full: bool) -> str:
    rows = [_score_row(score) for score in measured_scores(folder)]
    if not rows:
        return "## Scores\n\nNone were measured."
    on = "of the adapter, before it was merged" if merged else "of this adapter on its base as it was trained"
    what = "of this model" if full else f"{on}, not merged"
    head = f"## Scores\n\nMeasured {what}; intervals are 95 %.\n\n"
    table = [
        f"| {' | '.join(row)} |" for row in [("evaluation", "score", "interval", "n", "settings"), ("---",) * 5, *rows]
    ]
    return head + "\n".join(table)


def _score_row(score: MeasuredScore) -> tuple[str, str, str, str, str]:
    low, high = ("open" if bound is None else f"{bound:.4g}" for bound in (score.low, score.high))
    interval = "not known" if score.low is None and score.high is None else f"{low} to {high}"
    count = "" if score.n is None else str(score.n)
    return f"{score.evaluation} {score.metric}", f"{score.value:.4g}", interval, count, score.settings


def _loading_note(spec: RunSpec, merged: bool) -> str:
    if merged and spec.quant.method is not QuantMethod.none:
        return (
            "The adapter was trained on quantized weights. They were dequantized and the adapter added to them; "
            "rounding in the compute dtype, or quantizing again, moves the scores: measure before you rely on them."
        )
    exactness = inexact(spec, merged)
    if spec.quant.method is QuantMethod.none or merged:
        return "" if exactness is None else f"Note: {exactness}."
    note = "" if exactness is None else f"Note: {exactness}. "
    note += "Use it unmerged, on the base quantized as above: merging into other weights moves the scores."
    if spec.quant.method is not QuantMethod.int8 and spec.quant.block_size != 64:
        note += (
            " transformers quantizes in blocks of 64 and can't be told otherwise; this run had "
            f"{spec.quant.block_size}, so the snippet's base differs a little. qlora-harness loads the same one."
        )
    return note


def _provenance_rows(record: RunRecord) -> list[tuple[str, str]]:
    rows = [(name, version) for name, version in record.packages.items()]
    rows += [("Python", record.python), ("device", record.device), ("finished", record.finished)]
    if record.git_commit is not None:
        rows.append(
            ("harness commit", record.git_commit[:12] + (", changed files beside it" if record.git_dirty else ""))
        )
    rows += [
        ("training seconds", f"{record.train_seconds:,.0f}"),
        ("peak memory", f"{record.peak_memory_bytes / 1e9:.2f} GB"),
        ("sha256 of the adapter", f"`{record.adapter_sha256}`"),
    ]
    return rows


def _section(title: str, rows: Sequence[tuple[str, str]]) -> str:
    return f"## {title}\n\n| | |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in rows)


def _quantization_config(quant: QuantConfig, dtype: str) -> str:
    if quant.method is QuantMethod.none:
        return ""
    if quant.method is QuantMethod.int8:
        return "    quantization_config=BitsAndBytesConfig(load_in_8bit=True),\n"
    return (
        "    quantization_config=BitsAndBytesConfig(\n        load_in_4bit=True,\n"
        f'        bnb_4bit_quant_type="{quant.method.value}",\n'
        f"        bnb_4bit_use_double_quant={quant.double_quant},\n"
        f"        bnb_4bit_compute_dtype={dtype},\n    ),\n"
    )


def _dtype(quant: QuantConfig) -> str:
    assert quant.compute_dtype is not DType.auto
    return str(quant.compute_dtype.value)


def _name_only(text: str) -> str:
    """A hub id as it is; the last part of a path."""
    return Path(text).name if text.startswith(("/", "~", ".")) or "\\" in text or text.count("/") > 1 else text
