"""Contestants: runs of the ledger, opened for scoring, several adapters of one base a load."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from eval.console import STDERR
from harness.adapters import ADAPTER_WEIGHTS
from harness.files import sha256_file
from harness.locate import locate_model
from harness.models import LoadedBase, load_base
from harness.plan import RunSpec
from harness.provenance import load_record
from harness.schema import AdapterMethod, PathsConfig, QuantConfig
from harness.stores import Missing
from harness.torch_device import slow_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A finished run, or an untouched base, under its name in tables."""

    name: str
    run_id: str
    spec: RunSpec
    folder: Path  # runs/<run_id>

    @property
    def member(self) -> str | None:
        """Its name in the adapter bank; None for an untouched base."""
        return None if self.spec.adapter.method is AdapterMethod.none else self.run_id


def open_system(folder: Path) -> System:
    """Reads a run folder.

    Raises:
        ValueError: the folder holds no finished run.
    """
    record = load_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no record.json, so this run is not done; finish it with harness.run first")
    spec = RunSpec.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))
    return System(name=record.label, run_id=record.run_id, spec=spec, folder=folder)


def by_base(systems: Sequence[System]) -> list[list[System]]:
    """Systems that share a frozen base, together, in the order of their first."""
    groups: dict[str, list[System]] = {}
    for system in systems:
        groups.setdefault(system.spec.group, []).append(system)
    return list(groups.values())


def refuse_equal_names(systems: Sequence[System]) -> None:
    """Raises ValueError where two runs have one name, by which results are told apart."""
    seen: dict[str, str] = {}
    for system in systems:
        if system.name in seen:
            raise ValueError(
                f"runs {seen[system.name]} and {system.run_id} are both called {system.name}: take one at a time, "
                f"or start both in one sweep, which gives each a name of its own"
            )
        seen[system.name] = system.run_id


@contextmanager
def loaded(
    systems: Sequence[System], paths: PathsConfig, device: torch.device, with_adapters: bool = True
) -> Iterator[LoadedBase]:
    """One base with the adapters of all `systems` (of one group) in its bank, named by run_id; or the base alone."""
    spec = systems[0].spec
    source = locate_model(spec.model, paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    say_if_slow(spec.quant, device)
    base = load_base(source, spec.quant, device, Path(paths.cache), spec.model.kind, spec.adapter.method)
    if with_adapters:
        load_members(base, systems)
    yield base


def say_if_slow(quant: QuantConfig, device: torch.device) -> None:
    """One line on standard error where what was trained elsewhere is slow here in its own data type."""
    if (line := slow_dtype(quant.compute_dtype, device)) is not None:
        STDERR.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)


def load_members(base: LoadedBase, systems: Sequence[System]) -> None:
    """Reads the systems' adapters into the base's bank, each held against the sha256 of its record.

    Raises:
        ValueError: an adapter's file is not the one that the run wrote.
    """
    for system in systems:
        if system.member is None:
            continue
        record = load_record(system.folder)
        weights = system.folder / "adapter" / ADAPTER_WEIGHTS
        if record is not None and weights.is_file() and sha256_file(weights) != record.adapter_sha256:
            raise ValueError(
                f"{weights}: its sha256 is not the one in record.json, so the file was changed or damaged; remove "
                f"{system.folder} and run the sweep again"
            )
        base.bank.load_member(system.member, system.folder / "adapter")
