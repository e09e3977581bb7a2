"""The files of an adapter in PEFT's format: their names, and how `adapter_config.json` is written, read and checked.

An adapter that is nothing but LoRA is served beside others over one base (`harness.banks.shared`). All else
that PEFT computes deterministically from the file and the base, LoRA or not, is served by PEFT's own layers
(`harness.banks.adapters.loading`). What neither can do exactly is refused, and so is a field that PEFT 0.21 doesn't
know.

Source: PEFT 0.21, `LoraConfig` (every field has its place below) and `check_target_module_exists`.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.config.schema import ALL_LINEAR, AdapterConfig, AdapterMethod
from harness.methods.formats import format_of
from harness.methods.peft_fields import fields_of
from harness.methods.table import METHODS

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"  # of older PEFT versions; torch reads it weights-only
ADAPTER_CONFIG = "adapter_config.json"
RESIDUAL_FILE = "residual.json"  # beside an adapter that was trained on a base less its own start
CHAT_TEMPLATE = "chat_template.jinja"  # of the tokenizer, where it is not the base's
MODEL_CONFIG = "config.json"  # of a whole checkpoint, which a run of every weight leaves
LORA = "LORA"  # in `peft_type`
SIDE = "QST"  # likewise, of a side network's files, which PEFT can't read
PEFT_PREFIX = "base_model.model."
DEFAULT_RANK = DEFAULT_ALPHA = 8  # PEFT's own, where a file leaves them out
BY_PEFT = AdapterMethod.dora  # the method whose bank holds PEFT's own layers, whatever is in them

RESIDUAL_STARTS = ("pissa", "olora")  # PEFT takes the start from the base again when it loads such an adapter
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")  # nothing of them is left in the base

# Fields that say how training went, or that are read elsewhere here (r, alpha, targets, base, task)
_PLAIN = (
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
    *("r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "bias", "fan_in_fan_out"),
    *("lora_dropout", "inference_mode", "runtime_config", "megatron_core", "qalora_group_size"),
    *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
)
# Fields that change what is computed, which PEFT's own layers do exactly
_ONLY_PEFT = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "trainable_token_indices",
    "target_parameters",
    "ensure_weight_tying",
)
_EVERY_METHODS = (
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "auto_mapping", "peft_version"),
    *("inference_mode", "runtime_config"),
)
_TYPES: dict[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "use_rslora": (bool,),
    "use_dora": (bool,),
    "lora_bias": (bool,),
    "fan_in_fan_out": (bool,),
    "ensure_weight_tying": (bool,),
    "bias": (str,),
    "target_modules": (list, str, type(None)),
    "exclude_modules": (list, str, type(None)),
    "modules_to_save": (list, type(None)),
    "layers_to_transform": (list, int, type(None)),
    "rank_pattern": (dict, type(None)),
    "alpha_pattern": (dict, type(None)),
}
_PLAIN_TENSOR = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_[AB]\.weight")
_MAX_NAMED = 5  # fields or tensors in a message


def peft_config(config: AdapterConfig, targets: Sequence[str], base_model: str, revision: str) -> dict[str, Any]:
    """What `peft.PeftModel.from_pretrained` reads."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "revision": revision,
        "r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout or 0.0,
        "target_modules": list(targets),
        "use_rslora": config.method is AdapterMethod.rslora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def read_peft_config(folder: Path, task_type: str | None = None) -> dict[str, Any]:
    """Reads and checks `adapter_config.json`.

    Args:
        folder: of the adapter.
        task_type: PEFT's name of what the base does; None accepts any.

    Raises:
        ValueError: no such file, or fields that nothing here can serve, by name.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: no {ADAPTER_CONFIG}; expected a folder written by PEFT or by a run")
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path}: not JSON ({error}); copy it anew") from error
    if not isinstance(saved, dict):
        raise ValueError(f"{path}: expected an object, found {type(saved).__name__}; copy it anew")
    if problem := _config_problem(saved, task_type):
        raise ValueError(f"{path}: {problem}")
    return saved


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of an adapter's tensors, from the header of its safetensors file; None where it has a pickle.

    Raises:
        ValueError: neither file is there, or the file is damaged.
    """
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        if (folder / ADAPTER_PICKLE).is_file():
            return None
        raise ValueError(f"{folder}: no file {ADAPTER_WEIGHTS} or {ADAPTER_PICKLE} beside {ADAPTER_CONFIG}")
    try:
        with safe_open(path, framework="np") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); copy it anew") from error
    require_lora(path, shapes)
    return shapes


def require_lora(path: Path, keys: Collection[str]) -> None:
    """Raises ValueError for a LoRA adapter's file of weights in which no tensor is LoRA's."""
    if not any(".lora_" in key for key in keys) and _peft_type(path.parent) == LORA:
        raise ValueError(f"{path}: no LoRA tensors in it, but {listed(keys) or 'nothing'}")


def peft_only(folder: Path, saved: dict[str, Any]) -> list[str]:
    """Names the fields, files and tensors of an adapter that need PEFT's own layers; empty for plain LoRA."""
    if saved["peft_type"] != LORA:
        return [f"peft_type={saved['peft_type']}"]
    parts = [key for key in _ONLY_PEFT if _asks(saved.get(key))]
    parts += ["bias"] if saved.get("bias", "none") != "none" else []
    parts += ["init_lora_weights"] if saved.get("init_lora_weights") in RESIDUAL_STARTS else []
    parts += ["target_modules"] if saved.get("target_modules") is None else []
    shapes = tensor_shapes(folder)
    if shapes is None:
        return [*parts, ADAPTER_PICKLE]
    return parts + [key for key in shapes if not _is_in_a_block(key)]


def serving_fields(saved: dict[str, Any]) -> dict[str, Any]:
    """The fields of an adapter that change its result beside its tensors, rank, alpha and method."""
    keys = {"use_rslora", "bias", *_ONLY_PEFT} - {"use_dora"}
    keys |= {"init_lora_weights"} if saved.get("init_lora_weights") in RESIDUAL_STARTS else set()
    return {key: saved[key] for key in sorted(keys) if _asks(saved.get(key)) and saved[key] != "none"}


def bank_method(folder: Path) -> AdapterMethod:
    """The method whose bank serves what lies in `folder` (`harness.banks.load.make_bank`).

    Raises:
        ValueError: neither an adapter nor a checkpoint, or an adapter that nothing here can serve.
    """
    if not (folder / ADAPTER_CONFIG).is_file() and (folder / MODEL_CONFIG).is_file():
        return AdapterMethod.full
    saved = read_peft_config(folder)
    if saved["peft_type"] == SIDE:
        return AdapterMethod.qst
    needs_peft = (folder / RESIDUAL_FILE).is_file() or bool(peft_only(folder, saved))
    return BY_PEFT if needs_peft else AdapterMethod.lora


def saved_method(folder: Path) -> AdapterMethod:
    """Which residual method a run saved an adapter of; LoRA where the base's weights were left as they are."""
    about = folder / RESIDUAL_FILE
    return AdapterMethod(json.loads(about.read_text())["method"]) if about.is_file() else AdapterMethod.lora


def saved_formats(folder: Path) -> dict[str, str]:
    """The format of each layer that a run stored in one of its own (`adapter.bits`), by name; none of other runs.

    Raises:
        ValueError: something else is there.
    """
    about = folder / RESIDUAL_FILE
    formats = json.loads(about.read_text()).get("formats", {}) if about.is_file() else {}
    if not isinstance(formats, dict) or not all(isinstance(kind, str) for kind in formats.values()):
        raise ValueError(f"{about}: its formats aren't names by layer; copy it anew")
    for kind in set(formats.values()):
        try:
            format_of(kind)
        except ValueError as error:
            raise ValueError(f"{about}: {error}; copy it anew") from error
    return formats


def starts_from_weights(folder: Path) -> bool:
    """Whether the base is needed in 16/32 bits: its weights change, or whole modules of it are replaced."""
    saved = read_peft_config(folder)
    start = saved.get("init_lora_weights")
    return (folder / RESIDUAL_FILE).is_file() or start in RESIDUAL_STARTS or bool(saved.get("modules_to_save"))


def _peft_type(folder: Path) -> str:
    """What an adapter's config says it is; LoRA where it can't be read, which `read_peft_config` reports."""
    try:
        saved = json.loads((folder / ADAPTER_CONFIG).read_text())
    except (OSError, ValueError):
        return LORA
    return str(saved.get("peft_type", LORA)) if isinstance(saved, dict) else LORA


def targeted(saved: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Which of a base's layers `target_modules` and `exclude_modules` mean, by PEFT's rule."""
    wanted, excluded = saved["target_modules"], saved.get("exclude_modules") or []
    every = wanted == ALL_LINEAR or wanted == [ALL_LINEAR]
    return [name for name in names if (every or _means(wanted, name)) and not _means(excluded, name)]


def short_names(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """The last parts of the wanted names where those mean the same layers, else the names themselves.

    A last part that a head also has (RoBERTa's `dense`) would reach into it, so short ones are for layers only.
    """
    last = sorted({name.rsplit(".", 1)[-1] for name in wanted})
    meant = [name for name in names if name.rsplit(".", 1)[-1] in last]
    return last if meant == list(wanted) and "dense" not in last else list(wanted)


def require_finite(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raises ValueError for an adapter with NaN or infinite numbers: beside others it could make theirs NaN, too.

    Args:
        path: of the file.
        tensors: torch's, by their names in it.
    """
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path}: NaN or infinite numbers in {listed(broken)}; train it again, or copy it anew")


def listed(names: Collection[str]) -> str:
    """The first few of some names, and how many more there are."""
    shown = ", ".join(sorted(names)[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED} more"


def _asks(value: Any) -> bool:
    """Whether a field that is there asks for something; a 0 does, as the number of a layer."""
    return value is not None and value is not False and value not in ([], {}, "")


def _means(pattern: str | list[str], name: str) -> bool:
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return name in pattern or any(name.endswith(f".{part}") for part in pattern)


def _is_in_a_block(key: str) -> bool:
    """Whether a tensor is LoRA's, of a layer within a numbered block: no embedding, no output layer."""
    match = _PLAIN_TENSOR.fullmatch(key)
    return match is not None and any(part.isdigit() for part in match["layer"].split("."))


def _config_problem(saved: dict[str, Any], task_type: str | None) -> str | None:
    if saved.get("peft_type") == SIDE:
        return _side_problem(saved, task_type)
    if saved.get("peft_type") != LORA:
        return _other_problem(saved, task_type)
    for key, types in _TYPES.items():
        value = saved.get(key, _TYPES)
        if value is not _TYPES and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            return f"{key}={value!r}: expected {_spoken(types)}"
    if problem := _number_problem(saved) or _pattern_problem(saved):
        return problem
    if task_type is not None and saved.get("task_type") not in (None, task_type):
        return f"task_type={saved['task_type']}: the adapter is for another kind of model than this one ({task_type})"
    start = saved.get("init_lora_weights")
    if start not in (*_PLAIN_STARTS, *RESIDUAL_STARTS):
        return (
            f"init_lora_weights={start!r}: it was trained on a base that had changed, and that can't be rebuilt from "
            "the file; save it again with path_initial_model_for_weight_conversion, which makes a plain adapter of it"
        )
    known = {*_PLAIN, *_ONLY_PEFT}
    unknown = [key for key, value in saved.items() if key not in known and _asks(value)]
    if unknown:
        return f"{', '.join(f'{key}={saved[key]!r}' for key in sorted(unknown))}: can't be served here"
    return None


def _other_problem(saved: dict[str, Any], task_type: str | None) -> str | None:
    """Why an adapter of another of PEFT's methods can't be served; None where its own layers serve it."""
    peft_type = str(saved.get("peft_type"))
    entry, known = METHODS.get(peft_type.lower()), fields_of(peft_type)
    if entry is None or not known or entry.refused:
        reason = entry.refused if entry is not None and entry.refused else "only LoRA and methods like it are served"
        return f"peft_type={peft_type}: {reason}"
    if task_type is not None and saved.get("task_type") not in (None, task_type):
        return f"task_type={saved['task_type']}: the adapter is for another kind of model than this one ({task_type})"
    unknown = sorted(key for key, value in saved.items() if key not in {*known, *_EVERY_METHODS} and _asks(value))
    return f"peft_type={peft_type}: PEFT's has no {', '.join(unknown)}; can't be served here" if unknown else None


def _side_problem(saved: dict[str, Any], task_type: str | None) -> str | None:
    """Why a side network's config can't be served."""
    if task_type not in (None, "CAUSAL_LM"):
        return f"peft_type={SIDE}: a side network is for causal models"
    for key, least in (("qst_reduction", 2), ("qst_down_rank", 0)):
        value = saved.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            return f"{key}={value!r}: expected a whole number from {least} on"
    return None


def _number_problem(saved: dict[str, Any]) -> str | None:
    if saved.get("bias", "none") not in ("none", "all", "lora_only"):
        return f"bias={saved['bias']!r}: expected none, all or lora_only"
    for key in ("r", "lora_alpha"):
        if saved.get(key, 1) <= 0:
            return f"{key}={saved[key]!r}: expected a number above 0"
    for key in ("rank_pattern", "alpha_pattern"):
        for name, value in (saved.get(key) or {}).items():
            if isinstance(value, bool) or not isinstance(value, _TYPES["r" if key == "rank_pattern" else "lora_alpha"]):
                return f"{key}[{name!r}]={value!r}: expected a number"
    return None


def _pattern_problem(saved: dict[str, Any]) -> str | None:
    """A text that is to match layers' names and is no regular expression."""
    texts = {key: saved[key] for key in ("target_modules", "exclude_modules") if isinstance(saved.get(key), str)}
    texts |= {f"{key} of": name for key in ("rank_pattern", "alpha_pattern") for name in saved.get(key) or {}}
    for key, text in texts.items():
        try:
            re.compile(text)
        except re.error as error:
            return f"{key} {text!r}: no regular expression ({error})"
    return None


def _spoken(types: tuple[type, ...]) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return " or ".join({**names, dict: "an object"}.get(kind, "null") for kind in types)
