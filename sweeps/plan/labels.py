"""Makes the labels of a sweep's runs; each says how its run differs from the others."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.schema import ALL_LINEAR, DType, QuantMethod, quant_label
from harness.runs.spec import RunSpec, identity

_LONGEST = 40  # characters of a value that a label spells out
_UNSAFE = re.compile(r"[^\w.+=-]+", re.ASCII)  # labels become names of files and parts of addresses
_NUMBERS = {  # the short forms, in the order in which a label has them
    "adapter.lora_r": "r",
    "adapter.lora_alpha": "a",
    "adapter.lora_dropout": "d",
    "train.learning_rate": "lr",
    "train.max_steps": "n",
    "train.max_epochs": "e",
    "train.seed": "s",
    "train.batch_size": "b",
    "dataset.max_rows": "rows",
    "dataset.fraction": "f",
}
_WORDS: dict[str, Callable[[Any], str]] = {
    "dataset.train_on_source": lambda value: "on-source" if value else "",
    "dataset.select": str,
    "train.schedule": str,
    "train.master_weights": lambda value: f"{value or 'compute'}-weights",  # left out of an identity at `compute`
    "quant.compute_dtype": lambda value: quant_label("", QuantMethod.none, DType(value)),
    "adapter.targets": lambda value: "+".join(str(name).removesuffix("_proj") for name in value),
    "quant.double_quant": lambda value: "double" if value else "single",
    "data_sha256": str,
    "base_sha256": str,
    "start_sha256": lambda value: f"from-{value[:6]}",
    "train.data_seed": lambda value: f"data{value}",
}
_KNOWN = (*_NUMBERS, *_WORDS)


def unique_labels(specs: Sequence[RunSpec]) -> dict[str, str]:
    """run_id -> a label that no other run of the sweep has; equal ones get what they differ in, at last their id."""
    by_label: dict[str, list[RunSpec]] = {}
    for spec in specs:
        by_label.setdefault(spec.label, []).append(spec)
    longer: dict[str, str] = {}
    for label, same in by_label.items():
        longer |= _told_apart(label, same) if len(same) > 1 else {same[0].run_id: label}
    how_many = Counter(longer.values())
    begins = Counter((text, run_id[:4]) for run_id, text in longer.items())
    return {
        run_id: text if how_many[text] == 1 else f"{text}-{run_id[:4] if begins[text, run_id[:4]] == 1 else run_id}"
        for run_id, text in longer.items()
    }


def _told_apart(label: str, same: Sequence[RunSpec]) -> dict[str, str]:
    files = [spec.dataset.path if spec.dataset is not None else None for spec in same]
    rows = _short_names([None if path is None else str(Path(path).with_suffix("")) for path in files])
    models = _short_names([spec.model.path for spec in same])
    named = {"data_sha256": rows, "base_sha256": models}  # say more than the digests that are the identity
    values = {
        spec.run_id: _flat(identity(spec)) | {key: names[n] for key, names in named.items() if names[n] is not None}
        for n, spec in enumerate(same)
    }
    keys = dict.fromkeys(key for found in values.values() for key in found)
    varying = [key for key in keys if len({_text(found.get(key)) for found in values.values()}) > 1]
    varying.sort(key=lambda key: (_KNOWN.index(key) if key in _KNOWN else len(_KNOWN), key))
    short = {key: _shortened([found.get(key) for found in values.values()]) for key in varying}
    return {
        run_id: "-".join([label, *(word for key in varying if (word := _word(key, found.get(key), short[key])))])
        for run_id, found in values.items()
    }


def _shortened(values: Sequence[Any]) -> dict[float, str]:
    """Floats of more than six digits by four of them; none if the values then are no longer told apart."""
    short = {v: f"{v:.4g}" for v in values if isinstance(v, float) and _text(v) != f"{v:g}"}
    return short if len({_shown(v, short) for v in values}) == len({_text(v) for v in values}) else {}


def _shown(value: Any, short: Mapping[float, str]) -> str:
    return short[value] if isinstance(value, float) and value in short else _text(value)


def _short_names(paths: Sequence[str | None]) -> list[str | None]:
    """The names of local files or folders, with as many of the folders above as tell them apart."""
    parts = {path: Path(path).parts for path in paths if path is not None}
    for count in range(1, max(map(len, parts.values()), default=0) + 1):
        short = {path: "_".join(own[-count:]).replace("/", "") for path, own in parts.items()}
        if len(set(short.values())) == len(short):
            break
    return [None if path is None else short[path] for path in paths]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def _word(key: str, value: Any, short: Mapping[float, str]) -> str:
    """What a label says of one value; nothing of one that is not set. Args: short: of `_shortened`."""
    if key in _WORDS and (value is not None or key == "train.master_weights"):
        return _safe(_WORDS[key](value))
    if value is None:
        return ""
    text = _shown(value, short)
    if key in _NUMBERS:
        return f"{_NUMBERS[key]}{text}"
    name = key.rpartition(".")[2]
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    return _safe(f"{name}={text}" if isinstance(value, str) else f"{name}{text}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _safe(text: str) -> str:
    """The text in letters that a file's name may have; a long one by the beginning of its digest."""
    if len(text) > _LONGEST and not text.startswith(ALL_LINEAR):
        return f"{_UNSAFE.sub('_', text[:12])}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return _UNSAFE.sub("_", text)
