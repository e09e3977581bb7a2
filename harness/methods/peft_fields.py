"""Which fields the config of a PEFT method has, read from PEFT's source text: plans load neither PEFT nor torch.

    fields_of("OFT")["oft_block_size"]   # "int"

Each method of PEFT lies in a folder of its type's name, with a `config.py` that holds one dataclass.
"""

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PLAIN: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "Literal": (str,),
    "list": (list,),
    "List": (list,),
    "dict": (dict,),
    "Config": (dict,),  # a config of its own within the config
}
_BASES = {"LoraConfig": "lora/config.py", "LycorisConfig": "lycoris_utils.py"}  # configs that others begin with
_COMMON = ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision")


@cache
def fields_of(peft_type: str) -> dict[str, str]:
    """-> the fields of the method's config and their annotations; empty where PEFT has no such method here."""
    return {key: ast.unparse(node.annotation) for key, node in _declared(peft_type).items()}


@cache
def defaults_of(peft_type: str) -> dict[str, Any]:
    """-> the values that fields have where nothing is said, as far as the source states them as plain values"""
    values = {key: _default(node.value) for key, node in _declared(peft_type).items()}
    return {key: ast.literal_eval(value) for key, value in values.items() if value is not None}


def _declared(peft_type: str) -> dict[str, ast.AnnAssign]:
    """The fields of a method's config, those that it inherits first."""
    path = _tuners() / peft_type.lower() / "config.py"
    if not re.fullmatch(r"[A-Z0-9_]+", peft_type) or not path.is_file():
        return {}
    config = next((c for c in _classes(path) if f"PeftType.{peft_type}" in ast.unparse(c)), None)
    if config is None:
        return {}
    fields: dict[str, ast.AnnAssign] = {}
    for base in (ast.unparse(base) for base in config.bases):
        if base in _BASES:
            inherited = next(c for c in _classes(_tuners() / _BASES[base]) if c.name == base)
            fields |= _own_fields(inherited)
    return {key: node for key, node in {**fields, **_own_fields(config)}.items() if key not in _COMMON}


def _default(value: ast.expr | None) -> ast.expr | None:
    """The default of a field, written as it is or by `field(default=...)`; None of one that is no plain value."""
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    try:
        ast.literal_eval(value or ast.Name("none"))
    except ValueError:
        return None
    return value


def kind_problem(value: Any, annotation: str) -> str | None:
    """-> what a field takes, where the value is of another kind; None where it may be right."""
    if value is None:
        return None if re.search(r"None|Optional", annotation) else annotation
    names = [name for name in _PLAIN if re.search(rf"{name}\b", annotation)]
    kinds = {kind for name in names for kind in _PLAIN[name]}
    fits = not kinds or (isinstance(value, tuple(kinds)) and (bool in kinds or not isinstance(value, bool)))
    return None if fits else annotation


def _classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


def _own_fields(config: ast.ClassDef) -> dict[str, ast.AnnAssign]:
    return {
        node.target.id: node
        for node in config.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


@cache
def _tuners() -> Path:
    spec = find_spec("peft")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tuners"
