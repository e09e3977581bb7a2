"""Finds the folders that hold choices and grids: this project's `conf/`, then those that the user names.

`--config-dir mine` and `hydra.searchpath=[mine]` name a folder laid out as `conf/` is: `mine/model/my_model.yaml`,
`mine/dataset/my_rows.yaml`, `mine/experiment/...`. Named grids lie in `mine/grids/`, as ours in `sweeps/grid/`.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from harness.config.choices import CONF_FOLDER
from harness.config.grids import GRID_FOLDER, USER_GRIDS

SEARCH_PATH = "hydra.searchpath"


def user_folders(arguments: Sequence[str], config_dir: str | Path | None = None) -> tuple[Path, ...]:
    """The folders of choices that a command line names besides this project's.

    Args:
        arguments: as for Hydra, options and overrides.
        config_dir: of a command whose own option it is.

    Raises:
        ValueError: a folder that isn't there, or one whose file hides behind one of ours.
    """
    options = get_args_parser().parse_known_args(list(arguments))[0]
    named = [str(path) for path in (config_dir, options.config_dir) if path is not None]
    searched = [text for text in options.overrides if text.lstrip("+").startswith(f"{SEARCH_PATH}=")]
    named += [path for text in searched for path in _listed(text)]
    folders = tuple(dict.fromkeys(_folder(path) for path in named))
    if problems := [problem for folder in folders for problem in _hidden(folder)]:
        raise ValueError("\n".join(problems))
    return folders


def without_search_path(arguments: Sequence[str]) -> list[str]:
    """The overrides but `hydra.searchpath`, which `user_folders` reads."""
    return [text for text in arguments if not text.lstrip("+").startswith(f"{SEARCH_PATH}=")]


def _listed(text: str) -> list[str]:
    try:
        value = OverridesParser.create().parse_override(text).value()
    except HydraException:
        value = None
    if not isinstance(value, list) or not all(isinstance(path, str) for path in value):
        raise ValueError(f"{text}: expected a list of folders, e.g. '{SEARCH_PATH}=[file:///home/me/conf]'")
    return value


def _folder(path: str) -> Path:
    if path.startswith("pkg://"):
        name = path.removeprefix("pkg://").replace("/", ".")
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        places = list(found.submodule_search_locations or []) if found is not None else []
        path = places[0] if places else path
    folder = Path(os.path.abspath(os.path.expanduser(path.removeprefix("file://"))))
    if not folder.is_dir():
        raise ValueError(f"{path}: no such folder of choices; name one laid out as conf/ is (mine/model/my_model.yaml)")
    return folder


def _hidden(folder: Path) -> list[str]:
    """Files of the user that would never be read, because this project has others of the same name."""
    return [
        f"{path}: this project has one of that name itself, which would be taken; rename yours"
        for path in sorted(folder.glob("*/*.yaml"))
        if (ours := _own_folder(path.parent.name) / path.name).is_file() and ours.read_bytes() != path.read_bytes()
    ]


def _own_folder(group: str) -> Path:
    return GRID_FOLDER if group == USER_GRIDS else CONF_FOLDER / group
