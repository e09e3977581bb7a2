"""A config group's choice by its name, without Hydra: what `--model smollm2` means to the `eval` commands."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.config.schema import DatasetConfig, ModelConfig, QuantConfig, typed

CONF_FOLDER = Path(__file__).resolve().parents[2] / "conf"
Folders = Sequence[Path]
OURS: Folders = (CONF_FOLDER,)  # where choices are looked for unless the user names more


def model_choice(name_or_path: str) -> ModelConfig:
    """A choice of conf/model, or a folder with a checkpoint.

    Raises:
        ValueError: neither; near matches are named.
    """
    if Path(name_or_path).is_dir():
        path = Path(name_or_path)
        config: ModelConfig = typed(ModelConfig, {"name": path.name, "hub_id": path.name, "path": str(path)})
        return config
    chosen: ModelConfig = typed(ModelConfig, load_choice("model", name_or_path))
    return chosen


def dataset_choice(name: str) -> DatasetConfig:
    """A choice of conf/dataset. Raises ValueError, with the near matches, for another name."""
    chosen: DatasetConfig = typed(DatasetConfig, load_choice("dataset", name))
    return chosen


def quant_choice(name: str) -> QuantConfig:
    """A choice of conf/quant. Raises ValueError, with the near matches, for another name."""
    chosen: QuantConfig = typed(QuantConfig, load_choice("quant", name))
    return chosen


def load_choice(group: str, name: str, folders: Folders = OURS) -> dict[str, Any]:
    """The values of one YAML file, with those of the files that its `defaults` name.

    Raises:
        ValueError: no such choice.
    """
    path = next((file for folder in folders if (file := folder / group / f"{name}.yaml").is_file()), None)
    if path is None:
        hint = near(name, choices(group, folders))
        raise ValueError(f"{group} {name!r}: no such choice in conf/{group}, and no such folder.{hint}")
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    merged: dict[str, Any] = {}
    for default in values.pop("defaults", []):
        if default not in ("schema", "_self_"):
            merged |= load_choice(group, default, folders)
    return merged | values


def choices(group: str, folders: Folders = OURS) -> list[str]:
    """The files of a config group."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def is_group(key: str, folders: Folders = OURS) -> bool:
    """Whether a key names a config group, whose value is the name of a file."""
    return any((folder / key).is_dir() for folder in folders)


def near(word: str, known: Sequence[str]) -> str:
    """' Did you mean a or b?', or all that is known where nothing is near."""
    found = difflib.get_close_matches(str(word), known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(found)}?" if found else f" Known: {', '.join(known)}"
