"""Expands a grid to its points: it is a list of blocks, each a product of choices; sweeps/grid/ has files of them.

    blocks:
      - {model: [7b, 13b], dataset: "oasst1,flan", train.seed: [0, 1]}      # 8 points
      - {model: 7b, adapter: none}                                          # a union: one point more
      - {include: table5, train.seed: [0, 1, 2], skip: [{model: 65b, dataset: longform}]}

A block's keys are those of a command line. Three words mean more: `include` takes the blocks of other files,
`blocks` nests, and both are multiplied with the block's own choices, which win; `skip` leaves out points by
what they resolve to. What depends on size and dataset (batch, steps, rate) is not here but in conf/dataset/.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.choices import OURS, Folders, near

GRID_FOLDER = Path(__file__).resolve().parents[2] / "sweeps" / "grid"
USER_GRIDS = "grids"  # among a user's choices; not `grid`, which Hydra would take for the group of that key
INCLUDE, BLOCKS, SKIP = "include", "blocks", "skip"
Skip = Mapping[str, Any]  # key -> the value or values that are left out, all keys together
_NAMES = re.compile(r"\+{0,2}grid=([A-Za-z]\w*(?:,[A-Za-z]\w*)*)")
ONE_TO_A_SWEEP = ("launch", "paths", "tracking", "hydra", "grid", "sweep_name")  # keys that choose no points


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """One file of sweeps/grid/: a table or figure of the paper as a grid."""

    name: str
    title: str  # which table or figure it is
    num_runs: int  # distinct runs, equal points merged
    command: str
    blocks: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of a grid: what it chooses, and what would leave it out."""

    choices: dict[str, str]
    skips: tuple[Skip, ...] = ()


def grid_names(folders: Folders = OURS) -> list[str]:
    """The files of sweeps/grid/, and of the folder `grids` among a user's choices."""
    return sorted({path.stem for folder in _grid_folders(folders) for path in folder.glob("*.yaml")})


def load_grid(name: str, folders: Folders = OURS) -> GridFile:
    """One named grid.

    Raises:
        ValueError: no such file, or one with other keys; near matches are named.
    """
    path = next((file for folder in _grid_folders(folders) if (file := folder / f"{name}.yaml").is_file()), None)
    if path is None:
        raise ValueError(f"+grid={name}: no such grid.{near(name, grid_names(folders))}")
    loaded = OmegaConf.load(path)
    wanted = {"title", "num_runs", "command", BLOCKS}
    if not isinstance(loaded, DictConfig) or {str(key) for key in loaded} != wanted:
        raise ValueError(f"{path}: expected the keys {', '.join(sorted(wanted))}")
    values: dict[str, Any] = OmegaConf.to_container(loaded)  # type: ignore[assignment]
    return GridFile(name=name, **values)


def _grid_folders(folders: Folders) -> list[Path]:
    return [GRID_FOLDER, *(folder / USER_GRIDS for folder in folders)]


def with_named_grids(arguments: Sequence[str], folders: Folders = OURS) -> list[str]:
    """A command line in which `+grid=table5` is spelled out as the key `grid`; a whole named grid names its sweep.

    Raises:
        ValueError: a name that isn't there.
    """
    spelled: list[str] = []
    names: list[str] = []
    for text in arguments:
        match = _NAMES.fullmatch(text)
        if match is None:
            spelled.append(text)
            continue
        names = [load_grid(name, folders).name for name in match[1].split(",")]
        spelled.append(f"grid=[{{{INCLUDE}:[{','.join(names)}]}}]")
    keys = {text.partition("=")[0].lstrip("+~") for text in spelled if "=" in text}
    whole = all(key.partition(".")[0] in ONE_TO_A_SWEEP for key in keys) and "sweep_name" not in keys
    return [*spelled, f"sweep_name={'-'.join(names)}"] if names and whole else spelled


def expand(
    blocks: Sequence[Mapping[str, Any]],
    axes: Mapping[str, Sequence[str]],
    named: frozenset[str],
    folders: Folders = OURS,
) -> Iterator[Variant]:
    """Every point of the blocks' union, in their order.

    Args:
        blocks: as in a grid file; none is one empty block.
        axes: the command line's own choices of several values; they vary fastest.
        named: all keys of the command line, which replace the blocks' own.
        folders: where included grids are looked for.

    Raises:
        ValueError: a block that includes a grid which isn't there, or itself.
    """
    for variant in itertools.chain.from_iterable(_block(block, named, (), folders) for block in blocks or [{}]):
        for chosen in _product(axes):
            yield Variant(variant.choices | chosen, variant.skips)


def choice_texts(value: Any) -> list[str]:
    """The values of one key of a block as a command line has them: `a,b`, a list, or one value."""
    if isinstance(value, str):
        return [value] if value.startswith(("[", "{")) else [item.strip() for item in value.split(",")]
    return [_text(item) for item in value] if isinstance(value, list) else [_text(value)]


def _block(
    block: Mapping[str, Any], named: frozenset[str], within: tuple[str, ...], folders: Folders
) -> Iterator[Variant]:
    own = {key: choice_texts(value) for key, value in block.items() if key not in (INCLUDE, BLOCKS, SKIP, *named)}
    skips = tuple(block.get(SKIP, ()))
    for inner in _inner(block, named | own.keys(), within, folders):
        for chosen in _product(own):
            yield Variant(inner.choices | chosen, inner.skips + skips)


def _inner(
    block: Mapping[str, Any], named: frozenset[str], within: tuple[str, ...], folders: Folders
) -> Iterator[Variant]:
    """The points that a block multiplies: of nested and included blocks, or the one empty point."""
    if INCLUDE not in block and BLOCKS not in block:
        yield Variant({})
    for nested in block.get(BLOCKS, ()):
        yield from _block(nested, named, within, folders)
    for name in choice_texts(block.get(INCLUDE, [])):
        if name in within:
            raise ValueError(f"sweeps/grid/{name}.yaml includes itself: {' -> '.join([*within, name])}")
        for nested in load_grid(name, folders).blocks:
            yield from _block(nested, named, (*within, name), folders)


def _product(axes: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _text(value: Any) -> str:
    """As Hydra's grammar reads it back."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(_text(item) for item in value)}]" if isinstance(value, list) else str(value)
