"""What stands beside the systems that a command scores: their untouched base, and their adapters at other scales.

    python -m eval tasks --tasks gsm8k,hellaswag --run ID --with-base --adapter-scale 0,0.5,1,1.25

An adapter at scale 0.5 is half of its trained update: the weights are shared, so that all scales need one load. Only
LoRA and rsLoRA have such a scale: their update is linear in it, and at 0 the model is the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.benchmarks.benchmark import Contestant
from eval.systems import System, serving_method
from harness.banks.load import LoadedBase
from harness.banks.owned import OwnedBank
from harness.config.schema import AdapterMethod
from harness.runs.spec import RunSpec, identity

_SHORT_DIGEST = 12  # characters that name a base's weights
SCALED_METHODS = frozenset({AdapterMethod.lora, AdapterMethod.rslora, AdapterMethod.allora})


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What is scored together with the systems."""

    with_base: bool = False
    scales: tuple[float, ...] = ()  # of each adapter, in its trained scale; empty: as it was trained
    serving_gap: bool = False  # each run merged, and merged and quantized again: eval/commands/serving_gap.py

    def __post_init__(self) -> None:
        if self.serving_gap and (self.with_base or self.scales):
            raise ValueError("--serving-gap: compares with the unmerged run; leave --with-base and --adapter-scale out")

    @property
    def is_needed(self) -> bool:
        """Whether anything is."""
        return self.with_base or bool(self.scales) or self.serving_gap


NOTHING_BESIDE = Beside()


def read_scales(text: str | None) -> tuple[float, ...]:
    """Reads `--adapter-scale 0,0.5,1`.

    Raises:
        ValueError: no numbers of 0 or more, or one that stands there twice.
    """
    if text is None:
        return ()
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0 <= scale <= 100 for scale in scales) or len(set(scales)) < len(scales):
        raise ValueError(
            f"--adapter-scale {text}: expected different numbers from 0 to 100 with commas, as 0,0.5,1,1.25"
        )
    return scales


def require_scales(systems: Sequence[System]) -> None:
    """Raises ValueError for a run whose method has no scale, before any model is loaded."""
    for system in systems:
        if (method := serving_method(system)) not in SCALED_METHODS | {AdapterMethod.none}:
            raise _no_scale(system.name, f"adapter={system.spec.adapter.name} (adapter.method={method.value})")


def _no_scale(name: str, method: str) -> ValueError:
    return ValueError(
        f"--adapter-scale: {name} is {method}, whose update is not linear in a scale, or whose base was changed; "
        f"it goes with {', '.join(sorted(m.value for m in SCALED_METHODS))}"
    )


def base_names(systems: Sequence[System]) -> dict[str, str]:
    """run_id -> what the row of its untouched base is called: one name a base, and more than one where two share it.

    A base is what decides its scores: model, revision, weights, quantization, compute dtype.
    """
    details = {system.run_id: _base_details(system.spec) for system in systems}
    bases: dict[str, dict[str, Any]] = {}  # short name -> the details of each base that has it
    for system in systems:
        found = details[system.run_id]
        bases.setdefault(_short_name(system), {})[repr(found)] = found
    names: dict[str, str] = {}  # of each base, by its details
    for short, same in bases.items():
        varying = {key for one in same.values() for key in one if len({repr(of.get(key)) for of in same.values()}) > 1}
        for key, one in same.items():
            told = [f"{name}={value}" for name, value in one.items() if name in varying]
            names.setdefault(key, f"{short} ({', '.join(told)})" if told else short)
    return {run_id: names[repr(found)] for run_id, found in details.items()}


def _short_name(system: System) -> str:
    return f"{system.spec.model.name} {system.spec.quant.name} base"


def _base_details(spec: RunSpec) -> dict[str, Any]:
    """What tells one untouched base from another, flat."""
    found: dict[str, Any] = identity(spec.model) | identity(spec.quant)
    if spec.base_sha256 is None:
        return found
    hub = ("hub_id", "revision")  # of a local checkpoint no part of what it is
    return {key: value for key, value in found.items() if key not in hub} | {
        "weights": spec.base_sha256[:_SHORT_DIGEST]
    }


def at_scales(base: LoadedBase, contestants: Sequence[Contestant], scales: Sequence[float]) -> list[Contestant]:
    """Each adapter at each of the scales, as members of the bank; the untouched base as it is.

    Raises:
        ValueError: an adapter of a method without a scale.
    """
    if not scales:
        return list(contestants)
    bank: Any = base.bank
    found: list[Contestant] = []
    for one in contestants:
        if one.member is None:
            found.append(one)
            continue
        method = bank.configs[one.member].method
        if method not in SCALED_METHODS or isinstance(bank, OwnedBank):
            raise _no_scale(one.name, f"adapter.method={method.value}")
        for scale in scales:
            member = f"{one.member} x{scale:g}".replace(".", "_")  # torch takes no dot in a tensor's name
            bank.add_scaled(member, one.member, scale)
            found.append(replace(one, name=f"{one.name} x{scale:g}", member=member))
    return found


def together_with(
    base: LoadedBase, contestants: Sequence[Contestant], beside: Beside, base_name: str
) -> list[Contestant]:
    """The contestants, their adapters at the wanted scales, and the untouched base under its name unless it is there.

    Of a run whose bank owns its base, the untouched one is loaded later (`score_runs`).

    Raises:
        ValueError: an adapter without a scale, or a base that its adapter has changed.
    """
    found = at_scales(base, contestants, beside.scales)
    if not beside.with_base or any(one.member is None for one in contestants):
        return found
    if isinstance(base.bank, OwnedBank):
        if contestants[0].system is not None:
            return found
        method = base.bank.configs[str(contestants[0].member)].method.value
        raise ValueError(
            f"--with-base: {contestants[0].name} is adapter.method={method}, whose base is loaded for it alone; score "
            "the untouched base in a call of its own (--model), or a run with adapter=none beside it"
        )
    return [Contestant(name=base_name, member=None), *found]
