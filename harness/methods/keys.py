"""What `adapter=...` says, checked and as the values of PEFT's own config.

    problem = keys_problem(config.adapter)     # adapter.lora_alpha=32: miss has no such number
    values = peft_values(config.adapter)       # {"r": 8, "miss_dropout": 0.0, ...}

A key of ours that a method doesn't have, and a field of PEFT's that isn't there or that a key of ours fills, is
refused by name: nothing is dropped.
"""

import dataclasses
from typing import Any

from harness.config.schema import ALL_LINEAR, WHOLE_METHODS, AdapterConfig, AdapterMethod
from harness.methods.peft_fields import fields_of, kind_problem
from harness.methods.submatrices import LAYERS
from harness.methods.table import METHODS, Entry, entry_of

_OWNED = {  # fields of PEFT's that something here fills, or that mean nothing -> why
    "target_modules": "adapter.targets",
    "fan_in_fan_out": "the layers' own kind",
    "modules_to_save": "model.kind: a classifier's head is trained and saved",
    "inference_mode": "training",
    "total_step": "train.max_steps and train.max_epochs",
}
_WITH_A_AND_B = frozenset(AdapterMethod) - {
    AdapterMethod.none,
    *WHOLE_METHODS,
    AdapterMethod.s2ft,
    AdapterMethod.qst,
    AdapterMethod.lora_fa,
    AdapterMethod.peft,
}
OWN_KEYS = {  # a key of ours that one method has -> that method
    "allora_eta": AdapterMethod.allora,
    "s2ft_share": AdapterMethod.s2ft,
    "qst_reduction": AdapterMethod.qst,
    "qst_down_rank": AdapterMethod.qst,
    "lq_rounds": AdapterMethod.lq_lora,
    "bits": AdapterMethod.lq_lora,
    "fisher": AdapterMethod.lq_lora,
    "corda_keep": AdapterMethod.corda,
}
_NEEDED_KEYS = frozenset({"allora_eta", "s2ft_share", "lq_rounds"})  # without which their methods mean nothing
_OWN_METHODS = frozenset(  # whose rows say which keys they have
    {AdapterMethod.allora, AdapterMethod.hft, AdapterMethod.s2ft, AdapterMethod.lq_lora, AdapterMethod.qst}
)
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(AdapterConfig)}
_OWN_OF_ADALORA = ("init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "exclude_modules")
FIRST_RANK = 1.5  # times the mean rank at the end, in AdaLoRA's experiments (arXiv 2303.10512, section 4)


def keys_problem(adapter: AdapterConfig) -> str | None:
    """-> why the keys of `adapter` don't go together, with the remedy; None if they do."""
    if adapter.lora_plus_ratio is not None and adapter.method not in _WITH_A_AND_B:
        return (
            f"adapter.lora_plus_ratio={adapter.lora_plus_ratio} with adapter={adapter.method_name}: it has no "
            f"trained A and B whose rates could differ; use adapter={', '.join(sorted(m.value for m in _WITH_A_AND_B))}"
        )
    if problem := _own_key_problem(adapter) or _layers_problem(adapter):
        return problem
    if adapter.method is not AdapterMethod.peft:
        if adapter.method in _OWN_METHODS and (problem := _idle_problem(adapter)):
            return problem
        given = {"adapter.peft_type": adapter.peft_type, "adapter.peft": adapter.peft or None}
        named = [f"{key}={value}" for key, value in given.items() if value is not None]
        if named:
            return f"{', '.join(named)}: of adapter=peft only, and this is adapter.method={adapter.method.value}"
        return None
    return _type_problem(adapter) or _idle_problem(adapter) or _fields_problem(adapter)


def schedule_problem(adapter: AdapterConfig, max_steps: int | None) -> str | None:
    """-> why AdaLoRA's schedule of ranks doesn't fit into a run's steps; None if it does, or they aren't known yet"""
    begin, end = (adapter.peft.get(key, 0) for key in ("tinit", "tfinal"))
    if adapter.peft_type != "ADALORA" or max_steps is None or begin < max_steps - end:
        return None
    return (
        f"adapter.peft.tinit={begin}, tfinal={end}: the run has {max_steps} steps, and AdaLoRA moves its ranks between "
        "the two; lower them, or train longer"
    )


def uses_dropout(adapter: AdapterConfig) -> bool:
    """Whether the method drops a layer's input, so that a recipe's dropout has a meaning."""
    entry = entry_of(adapter)
    by_entry = adapter.method is AdapterMethod.peft or adapter.method in _OWN_METHODS
    return not by_entry or (entry is not None and entry.dropout is not None)


def peft_values(adapter: AdapterConfig) -> dict[str, Any]:
    """The fields of PEFT's config that `adapter` gives, but for the target layers."""
    entry = entry_of(adapter)
    if entry is None:  # PEFT's LoRA with a field that has no key here
        entry = METHODS["lora"]
    values = {**adapter.peft, **_filled(adapter, entry)}
    if adapter.peft_type == "ADALORA":
        values.setdefault("init_r", round(FIRST_RANK * adapter.lora_r))
    return values


def _own_key_problem(adapter: AdapterConfig) -> str | None:
    """A key of one method that was given to another, or that its method lacks."""
    for key, method in OWN_KEYS.items():
        value = getattr(adapter, key)
        if value != _DEFAULTS[key] and adapter.method is not method:
            return f"adapter.{key}={value}: of adapter={method.value} only, and this is adapter={adapter.method_name}"
        if value is None and adapter.method is method and key in _NEEDED_KEYS:
            return f"adapter={method.value} needs adapter.{key}; its file in conf/adapter has a value that may serve"
    if adapter.corda_keep_sha256 is not None and adapter.corda_keep is None:
        return f"adapter.corda_keep_sha256={adapter.corda_keep_sha256}: the plan fills it in; give adapter.corda_keep"
    others = sorted(set(adapter.targets) - set(LAYERS))
    if adapter.method is AdapterMethod.s2ft and others:
        return f"adapter.targets={others} with adapter=s2ft: it trains parts of {', '.join(LAYERS)}; name some of them"
    return None


def _layers_problem(adapter: AdapterConfig) -> str | None:
    entry = entry_of(adapter)
    if adapter.layers is None or adapter.method is AdapterMethod.none:
        return None
    if adapter.peft_type == "TRAINABLE_TOKENS":
        return (
            f"adapter.layers={adapter.layers}: {entry and entry.title} are rows of a table, in no block; leave it out"
        )
    if adapter.method is AdapterMethod.qst:
        return (
            f"adapter.layers={adapter.layers} with adapter=qst: its side network reads all of the base's layers, one "
            "after another; leave it out, or use adapter=lora"
        )
    if adapter.peft_type == "IA3":
        return (
            f"adapter.layers={adapter.layers} with adapter=ia3: PEFT knows its feed-forward layers by their last names "
            "only; leave it out, or use adapter=lora"
        )
    patterns = [f"adapter.peft.{key}" for key in ("layers_to_transform", "layers_pattern") if key in adapter.peft]
    return (
        f"adapter.layers={adapter.layers} and {patterns[0]}: they say the same; give one of them" if patterns else None
    )


def _filled(adapter: AdapterConfig, entry: Entry) -> dict[str, Any]:
    ours = {entry.rank: adapter.lora_r, entry.alpha: adapter.lora_alpha, entry.dropout: adapter.lora_dropout or 0.0}
    return {key: value for key, value in ours.items() if key is not None}


def _type_problem(adapter: AdapterConfig) -> str | None:
    if adapter.peft_type is None:
        return "adapter=peft: say which method, by adapter.peft_type=VBLORA; `python -m harness.methods` lists them"
    entry = entry_of(adapter)
    if entry is None or (not fields_of(adapter.peft_type) and not entry.refused):
        known = sorted(row.name.upper() for row in METHODS.values() if fields_of(row.name.upper()) and not row.refused)
        return f"adapter.peft_type={adapter.peft_type}: no method that was tried here; known: {', '.join(known)}"
    if entry.refused:
        return f"adapter.peft_type={adapter.peft_type}: {entry.refused}"
    if adapter.peft_type == "LORA" and not adapter.peft:
        return "adapter.peft_type=LORA: use adapter=lora, which trains many of them over one base"
    return None


def _idle_problem(adapter: AdapterConfig) -> str | None:
    """A key that the user has set and the method has no use for."""
    entry = entry_of(adapter)
    assert entry is not None
    idle = {
        "lora_r": entry.rank is None and adapter.lora_r != _DEFAULTS["lora_r"],
        "lora_alpha": entry.alpha is None and adapter.lora_alpha != _DEFAULTS["lora_alpha"],
        "lora_dropout": entry.dropout is None and bool(adapter.lora_dropout),
        "targets": not entry.on_layers and list(adapter.targets) != [ALL_LINEAR],
    }
    named = [f"adapter.{key}={getattr(adapter, key)}" for key, is_idle in idle.items() if is_idle]
    if not named:
        return None
    problem = f"{', '.join(named)}: {entry.title} has no such number; leave it out"
    if adapter.method is not AdapterMethod.peft:
        return problem
    return f"{problem}. +adapter.peft.KEY may be {', '.join(sorted(free_fields(adapter, entry)))}"


def _fields_problem(adapter: AdapterConfig) -> str | None:
    entry = entry_of(adapter)
    assert entry is not None
    assert adapter.peft_type is not None
    kinds, owned = fields_of(adapter.peft_type), _owned(adapter, entry)
    for key, value in adapter.peft.items():
        if key in owned:
            return f"adapter.peft.{key}={value}: this is {owned[key]}; leave it out"
        if key.endswith("dropout"):
            return (
                f"adapter.peft.{key}={value}: it is drawn from a generator that all runs share, so a resumed run would "
                "be another one; leave it out"
            )
        if key not in kinds:
            known = ", ".join(sorted(free_fields(adapter, entry)))
            return f"adapter.peft.{key}={value}: PEFT's {adapter.peft_type} has no such field; it has {known}"
        if (kind := kind_problem(value, kinds[key])) is not None:
            return f"adapter.peft.{key}={value!r}: PEFT's {adapter.peft_type} takes {kind}"
    if adapter.peft_type == "ADALORA" and adapter.peft.get("init_r", adapter.lora_r + 1) <= adapter.lora_r:
        return (
            f"adapter.peft.init_r={adapter.peft['init_r']} with adapter.lora_r={adapter.lora_r}: AdaLoRA begins with "
            "more ranks than it keeps; raise adapter.peft.init_r, or leave it out"
        )
    if missing := [key for key in entry.needs if key not in adapter.peft]:
        return f"adapter.peft_type={adapter.peft_type} needs +adapter.peft.{missing[0]}=... ({kinds[missing[0]]})"
    return None


def _owned(adapter: AdapterConfig, entry: Entry) -> dict[str, str]:
    ours = {entry.rank: "adapter.lora_r", entry.alpha: "adapter.lora_alpha", entry.dropout: "adapter.lora_dropout"}
    owned = _OWNED | {key: name for key, name in ours.items() if key is not None}
    owned |= dict.fromkeys(("task_type", "auto_mapping", "peft_version"), "model.kind")
    owned |= {"peft_type": "adapter.peft_type", "base_model_name_or_path": "model", "revision": "model.revision"}
    if adapter.peft_type == "ADALORA":
        idle = fields_of("ADALORA").keys() - {*_OWN_OF_ADALORA, *owned}
        return _said(owned) | dict.fromkeys(idle, "no part of AdaLoRA")
    if adapter.peft_type == "LORA":
        owned |= {"use_dora": "adapter=dora", "use_rslora": "adapter=rslora", "init_lora_weights": "adapter=pissa, eva"}
        owned |= {"eva_config": "adapter=eva", "corda_config": "adapter=corda", "loftq_config": "adapter=loftq"}
        owned |= {"lora_ga_config": "adapter=lora_ga"}
    return _said(owned)


def _said(owned: dict[str, str]) -> dict[str, str]:
    return {key: f"set by {by}" for key, by in owned.items()}


def free_fields(adapter: AdapterConfig, entry: Entry) -> set[str]:
    """The fields of PEFT's config that `adapter.peft` may set."""
    assert adapter.peft_type is not None
    free = set(fields_of(adapter.peft_type)) - set(_owned(adapter, entry))
    return {key for key in free if not key.endswith("dropout")}
