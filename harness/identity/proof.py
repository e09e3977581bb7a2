"""Proves, before a run's first step, that what is trained is the method that the run names.

    proof = prove(bank, "member", config)     # raises NotTheMethodError, which names the check that failed
    proof.checks["differs from LoRA"]         # "passed: ..."

PEFT accepts several variants on a quantized base and trains plain LoRA instead, without a word; on others nothing of
the adapter is reached, or what is read back computes something else. The checks need a few passes of two short
sequences; every trained tensor is put back afterwards, so the run starts where it would have started without them.

- parameters: as many numbers are trained as the paper's formula says (`harness.methods.table`).
- start: the function at step 0 is the base's, or is it where all that is trained is 0.
- learns: after a few steps every trained tensor had a gradient, and the losses moved.
- differs from LoRA: a layer doesn't compute s B A x; or what else sets the method apart is there (of QST, that no
  backward pass goes through the base).
- frozen: no tensor that isn't trained has changed.
- saved: what is written and read again computes the same, to the last bit.
- bits: with `adapter.bits`, each adapted layer is in a format of its own, and all of them take no more.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.banks.bank import Bank
from harness.config.schema import AdapterConfig, AdapterMethod
from harness.identity.low_rank import LowRank, error_of, low_rank_of
from harness.methods.blocks import block_of
from harness.methods.table import Entry, Start, entry_of
from harness.nn.batch import Item
from harness.nn.rows import trial_sequences
from harness.runs.compatibility import RESIDUAL_METHODS
from harness.variants.allora import gradient_factors
from harness.variants.hft import categories, half_of
from harness.variants.lq_rounding import SimulatedLinear

NUM_STEPS = 3  # at most: a zero B hides A's gradient in the first, a zero E both others' in AdaLoRA
STEP_SIZE = 0.02  # by the sign of the gradient
PASSED = "passed"
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.05}  # of losses, in nats
_MAX_COMPARED = 4096  # elements of a frozen tensor that are compared


class NotTheMethodError(ValueError):
    """What would be trained isn't the method that the run names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was checked of a method, on weights stored so, in a model of this family."""

    method: str
    family: str  # the model's type
    num_trained: int
    formula: str
    checks: dict[str, str] = field(default_factory=dict)  # the check -> "passed", or why it wasn't made

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return {
            "method": self.method,
            "family": self.family,
            "num_trained": self.num_trained,
            "formula": self.formula,
            "checks": dict(self.checks),
        }


def prove(bank: Bank, name: str, config: AdapterConfig) -> Proof:
    """Runs the checks on a fresh member. The bank is left as it was.

    Args:
        bank: holds the member, at its start.
        name: the member's.
        config: as it was added.

    Raises:
        NotTheMethodError: a check failed.
    """
    parameters = bank.member_parameters(name)
    entry = entry_of(config)
    checks = {"parameters": _parameters(bank, name, config, entry, parameters)}
    if config.method is AdapterMethod.full or entry is None or bank.shards is not None:
        why = "every weight is trained" if config.method is AdapterMethod.full else "the base is sharded"
        return _proof(bank, config, entry, parameters, checks | {"others": f"not made: {why}"})
    with _restored(bank, parameters), torch.random.fork_rng(devices=_devices(bank)):
        items = _probe(bank, name, config)
        checks["start"] = _start(bank, items, name, config, entry, parameters)
        start = {key: value.detach().clone() for key, value in parameters.items()}
        frozen = _sampled(bank, parameters)
        before = _losses(bank, items)
        checks["learns"] = _learns(bank, items, config, parameters, before)
        is_beside = config.method is AdapterMethod.qst
        checks["differs from LoRA"] = _beside(bank, items, config) if is_beside else _differs(bank, name, config, start)
        checks["frozen"] = _frozen(config, frozen, _sampled(bank, parameters))
        checks["saved"] = _saved(bank, name, items, config, parameters)
    if config.bits is not None:
        checks["bits"] = _bits(bank, name, config)
    return _proof(bank, config, entry, parameters, checks)


def counted(known: Proof, bank: Bank, name: str, config: AdapterConfig) -> Proof:
    """The proof of another member of the same method, whose trained numbers are counted anew.

    Raises:
        NotTheMethodError: they aren't as many as the formula says.
    """
    parameters = bank.member_parameters(name)
    number = sum(parameter.numel() for parameter in parameters.values())
    check = _parameters(bank, name, config, entry_of(config), parameters)
    return replace(known, num_trained=number, checks=known.checks | {"parameters": check})


def _proof(
    bank: Bank,
    config: AdapterConfig,
    entry: Entry | None,
    parameters: Mapping[str, nn.Parameter],
    checks: dict[str, str],
) -> Proof:
    return Proof(
        method=config.method_name,
        family=str(bank.base.config.model_type),
        num_trained=sum(parameter.numel() for parameter in parameters.values()),
        formula="" if entry is None else entry.formula,
        checks=checks,
    )


def _fail(config: AdapterConfig, check: str, reason: str) -> NotTheMethodError:
    return NotTheMethodError(
        f"identity, {check}: adapter={config.method_name} on these weights is not what it says: {reason}; "
        "`python -m harness.methods` lists the methods that are"
    )


def _parameters(
    bank: Bank, name: str, config: AdapterConfig, entry: Entry | None, parameters: Mapping[str, nn.Parameter]
) -> str:
    heads: frozenset[str] = getattr(bank, "head_names", frozenset())
    _require_blocks(config, parameters, heads)
    if config.method is AdapterMethod.hft:
        return _halves(bank, config, parameters, heads)
    if entry is None or entry.count is None:
        return "not made: no formula"
    adapted = sum(p.numel() for key, p in parameters.items() if not heads & set(key.split(".")))
    expected = entry.count(bank.adapted_layers(name), bank.adapter_fields(name))
    if adapted != expected:
        raise _fail(config, "parameters", f"{adapted:,} numbers are trained, {entry.formula} is {expected:,}")
    return PASSED


def _require_blocks(config: AdapterConfig, parameters: Mapping[str, nn.Parameter], heads: frozenset[str]) -> None:
    """Raises NotTheMethodError where something of other blocks than `adapter.layers` is trained, or one isn't."""
    if config.layers is None:
        return
    places = {key: block_of(key) for key in parameters if not heads & set(key.split("."))}
    may_share = config.method is AdapterMethod.peft  # VB-LoRA's vectors are of all layers
    outside = [k for k, place in places.items() if (not may_share if place is None else place[1] not in config.layers)]
    missing = set(config.layers) - {place[1] for place in places.values() if place is not None}
    if outside or missing:
        what = f"{outside[0]} is trained" if outside else f"nothing is trained in {sorted(missing)}"
        raise _fail(config, "parameters", f"adapter.layers={config.layers}, and {what}")


def _halves(bank: Bank, config: AdapterConfig, parameters: Mapping[str, nn.Parameter], heads: frozenset[str]) -> str:
    """HFT: of each layer's modules of a kind a half is trained, and nothing outside of layers."""
    trained = {key.rpartition(".")[0] for key in parameters if not heads & set(key.split("."))}
    modules = dict.fromkeys(name.rpartition(".")[0] for name, _ in bank.base.named_parameters())
    groups = categories([*modules])
    if outside := trained - {name for members in groups.values() for name in members}:
        raise _fail(config, "parameters", f"{min(outside)} is trained, which is no layer's")
    for (_, block, kind), members in groups.items():
        wanted = half_of(len(members), block) if config.layers is None or block in config.layers else 0
        if (number := len(trained.intersection(members))) != wanted:
            reason = f"in layer {block} {number} of {len(members)} {kind} modules are trained, a half is {wanted}"
            raise _fail(config, "parameters", reason)
    return PASSED


def _start(
    bank: Bank,
    items: Sequence[Item],
    name: str,
    config: AdapterConfig,
    entry: Entry,
    parameters: Mapping[str, nn.Parameter],
) -> str:
    if config.method in RESIDUAL_METHODS:
        return "not made: the base is less its start, W - s B0 A0"
    if entry.start is Start.zeroed:
        with _restored(bank, parameters), torch.no_grad():
            for parameter in parameters.values():
                parameter.zero_()
            error = _distance(bank, items, name)
    else:
        error = _distance(bank, items, name)
    if not error <= _TOLERANCE[bank.dtype]:
        where = "with all that is trained at 0" if entry.start is Start.zeroed else "at step 0"
        raise _fail(config, "start", f"{where} its losses are {error:.2g} nats from the base's")
    return PASSED if entry.start is Start.base else f"{PASSED}: {entry.start.value}"


def _distance(bank: Bank, items: Sequence[Item], name: str) -> float:
    with bank.without_member(name) as base_name:
        own = _losses(bank, [_of_member(item, base_name) for item in items])
    return float((_losses(bank, items) - own).abs().max())


def _learns(
    bank: Bank, items: Sequence[Item], config: AdapterConfig, parameters: Mapping[str, nn.Parameter], before: Tensor
) -> str:
    learned = set[str]()
    for _ in range(NUM_STEPS):
        for parameter in parameters.values():
            parameter.grad = None
        bank.item_losses(items).mean().backward()
        with torch.no_grad():
            for key, parameter in parameters.items():
                if parameter.grad is not None and parameter.grad.count_nonzero():
                    learned.add(key)
                    parameter.sub_(parameter.grad.sign() * STEP_SIZE)
        if len(learned) == len(parameters):
            break
    for parameter in parameters.values():
        parameter.grad = None
    if idle := sorted(parameters.keys() - learned):
        named = ", ".join(idle[:3]) + (f" and {len(idle) - 3} more" if len(idle) > 3 else "")
        raise _fail(config, "learns", f"{named} got no gradient in {NUM_STEPS} steps")
    moved = float((_losses(bank, items) - before).abs().max())
    if not (math.isfinite(moved) and moved > 0):
        raise _fail(config, "learns", f"the losses moved by {moved:.2g} nats in {NUM_STEPS} steps")
    return PASSED


def _differs(bank: Bank, name: str, config: AdapterConfig, start: Mapping[str, Tensor]) -> str:
    """Holds a layer against s B A x, and where it is that, looks for what sets the method apart."""
    own_rule = _APART.get(config.method)  # of the methods that are LoRA in their function
    found = low_rank_of(bank, name)
    if found is None:
        return f"{PASSED}: {_kind_of_lora(config) or 'it has no two factors as LoRA has them'}"
    if not found.is_lora and own_rule is None:
        return f"{PASSED}: its layers compute something else" if found.differs_by is None else found.differs_by
    if not found.is_lora and config.method not in _OWN_GRADIENTS:
        raise _fail(config, "differs from LoRA", "its layers don't compute s B A x")
    if own_rule is None:
        raise _fail(
            config,
            "differs from LoRA",
            f"its layers compute {found.scale:.3g} B A x, with LoRA's gradients: plain LoRA",
        )
    if (problem := own_rule(config, found, start)) is not None:
        raise _fail(config, "differs from LoRA", problem)
    return f"{PASSED}: {_kind_of_lora(config)}"


def _beside(bank: Bank, items: Sequence[Item], config: AdapterConfig) -> str:
    """QST: what is trained stands beside the base, so a norm of the base's decoder would get no gradient."""
    norms = [weight for weight in bank.base.get_decoder().parameters() if weight.ndim == 1]
    for weight in norms:
        weight.requires_grad_(True)
    try:
        gradients = torch.autograd.grad(bank.item_losses(items).mean(), norms, allow_unused=True)
    finally:
        for weight in norms:
            weight.requires_grad_(False)
    if any(gradient is not None for gradient in gradients) or not norms:
        raise _fail(config, "differs from LoRA", "the backward pass goes through the base")
    return f"{PASSED}: no backward pass goes through the base"


def _is_scaled(config: AdapterConfig, found: LowRank, _: Mapping[str, Tensor]) -> str | None:
    root = math.sqrt(config.lora_r) if config.method is AdapterMethod.rslora else config.lora_r
    wanted = config.lora_alpha / root
    return (
        None if abs(found.scale / wanted - 1) < 0.05 else f"its scale is {found.scale:.4g}, it should be {wanted:.4g}"
    )


def _starts_elsewhere(_: AdapterConfig, found: LowRank, start: Mapping[str, Tensor]) -> str | None:
    b_starts = [value for key, value in start.items() if ".lora_B." in key]
    return None if any(bool(value.count_nonzero()) for value in b_starts) else "B starts at 0, as LoRA's"


def _starts_by_data(_: AdapterConfig, found: LowRank, start: Mapping[str, Tensor]) -> str | None:
    a_starts = [value for key, value in start.items() if ".lora_A." in key]
    beyond = any(float(value.abs().max()) > 1 / math.sqrt(value.shape[1]) for value in a_starts)
    return None if beyond else "A starts within the bounds that LoRA's is drawn from"


def _holds_a(_: AdapterConfig, found: LowRank, start: Mapping[str, Tensor]) -> str | None:
    return "A is trained" if any(".lora_A." in key for key in start) else None


def _adapts_gradients(config: AdapterConfig, found: LowRank, _: Mapping[str, Tensor]) -> str | None:
    """ALLoRA: the scale is 1, and B's gradient is LoRA's times the factors of its rows, A's is LoRA's."""
    if found.b_OR is None or abs(found.scale - 1) > 0.05:
        return f"its layers compute no B A x (scale {found.scale:.4g})"
    (of_a, lora_a), (of_b, lora_b) = found.gradients["a"], found.gradients["b"]
    factors_O1 = gradient_factors(found.b_OR, config.allora_eta or math.nan)
    limit = _TOLERANCE[torch.bfloat16]
    if (
        of_a is None
        or of_b is None
        or error_of(of_a, lora_a) > limit
        or not error_of(of_b, lora_b * factors_O1) < limit
    ):
        return "B's gradient isn't LoRA's times 1 / sqrt(|B_i| + 1 / eta^2)"
    return None


def _selects(_: AdapterConfig, found: LowRank, start: Mapping[str, Tensor]) -> str | None:
    """S2FT: one factor takes features one by one, each once, and the other is trained."""
    if found.a_RI is None or found.b_OR is None or abs(found.scale - 1) > 0.05:
        return f"its layers compute no D x[chosen] (scale {found.scale:.4g})"
    if len(found.gradients) != 1:
        return "both factors are trained"
    selection_RX = found.b_OR.T if "a" in found.gradients else found.a_RI
    is_one_hot = bool(((selection_RX == 0) | (selection_RX == 1)).all()) and bool((selection_RX.sum(1) == 1).all())
    return None if is_one_hot and bool((selection_RX.sum(0) <= 1).all()) else "the frozen factor is no selection"


_OWN_GRADIENTS = frozenset({AdapterMethod.allora})  # LoRA's function, learned otherwise
_APART: dict[AdapterMethod, Callable[[AdapterConfig, LowRank, Mapping[str, Tensor]], str | None]] = {
    AdapterMethod.lora: _is_scaled,
    AdapterMethod.rslora: _is_scaled,
    AdapterMethod.pissa: _starts_elsewhere,
    AdapterMethod.olora: _starts_elsewhere,
    AdapterMethod.corda: _starts_elsewhere,
    AdapterMethod.loftq: _starts_elsewhere,
    AdapterMethod.lora_ga: _starts_elsewhere,
    AdapterMethod.lq_lora: _starts_elsewhere,
    AdapterMethod.eva: _starts_by_data,
    AdapterMethod.lora_fa: _holds_a,
    AdapterMethod.allora: _adapts_gradients,
    AdapterMethod.s2ft: _selects,
}
_KIND_OF_LORA = {
    AdapterMethod.lora: "LoRA itself, of the scale alpha / r",
    AdapterMethod.rslora: "LoRA of the scale alpha / sqrt(r)",
    AdapterMethod.pissa: "LoRA from another start",
    AdapterMethod.olora: "LoRA from another start",
    AdapterMethod.corda: "LoRA from another start",
    AdapterMethod.loftq: "LoRA from another start",
    AdapterMethod.lora_ga: "LoRA from another start",
    AdapterMethod.lq_lora: "LoRA from another start",
    AdapterMethod.eva: "LoRA from another start",
    AdapterMethod.lora_fa: "LoRA with A frozen",
    AdapterMethod.allora: "LoRA of the scale 1, B's gradients by its rows",
    AdapterMethod.s2ft: "a dense submatrix beside the weights",
}


def _kind_of_lora(config: AdapterConfig) -> str | None:
    kind = _KIND_OF_LORA.get(config.method)
    ratio = config.lora_plus_ratio
    return kind if kind is None or ratio is None else f"{kind}, B's rate {ratio:g} times A's"


def _saved(
    bank: Bank, name: str, items: Sequence[Item], config: AdapterConfig, parameters: Mapping[str, nn.Parameter]
) -> str:
    """Writes the member, forgets it, reads it into the same layers."""
    trained = _losses(bank, items)
    with tempfile.TemporaryDirectory() as folder:
        bank.save_member(name, Path(folder), "probe", "main")
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.fill_(0.5)
        bank.read_again(name, Path(folder))
    read = _losses(bank, items)
    if not torch.equal(read, trained):
        error = float((read - trained).abs().max())
        raise _fail(config, "saved", f"what is saved and read again has losses {error:.2g} nats from what was trained")
    return PASSED


def _bits(bank: Bank, name: str, config: AdapterConfig) -> str:
    storage, layers = bank.storage(name), [base for _, base, _ in bank.adapter_layers(name)]
    num_stored = 0 if storage is None else sum(storage["layers"].values())
    if storage is None or num_stored != len(layers) or not all(isinstance(base, SimulatedLinear) for base in layers):
        raise _fail(config, "bits", f"{num_stored} of {len(layers)} adapted layers are in a format of their own")
    if storage["bits"] > (config.bits or 0):
        raise _fail(config, "bits", f"its layers take {storage['bits']:.4f} bits a weight, adapter.bits={config.bits}")
    return f"{PASSED}: {storage['bits']:.3f} bits a weight, simulated"


def _frozen(config: AdapterConfig, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    if moved:
        raise _fail(config, "frozen", f"{moved[0]} has changed, and isn't trained")
    return PASSED


def _sampled(bank: Bank, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Evenly spaced elements of every tensor that isn't trained; an update reaches all of a tensor's elements."""
    trained = {parameter.data_ptr() for parameter in parameters.values()}
    taken: dict[str, Tensor] = {}
    for key, tensor in [*bank.base.named_parameters(), *bank.base.named_buffers()]:
        if tensor.data_ptr() not in trained and not tensor.is_meta and ".lora_a." not in key and ".lora_b." not in key:
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // _MAX_COMPARED)].clone()
            taken[key] = sample.view(torch.uint8)  # packed weights that are stored as floats may be no numbers
    return taken


def _probe(bank: Bank, name: str, config: AdapterConfig) -> list[Item]:
    """Two short sequences, in which chosen tokens occur."""
    chosen = [int(token) for token in config.peft.get("token_indices") or ()]
    label = 0.0 if getattr(bank, "task_type", "") == "SEQ_CLS" else None
    items = []
    for place, ids_1T in enumerate(trial_sequences(bank.base)):
        tokens = np.array([*ids_1T[0].tolist(), *chosen, int(ids_1T[0, 0])], dtype=np.int32)
        items.append(Item(member=name, tokens=tokens, num_source=3, dropout_key=place, weight=1.0, label=label))
    return items


def _of_member(item: Item, name: str | None) -> Item:
    return Item(
        member=name,  # type: ignore[arg-type]  # None is the untouched base
        tokens=item.tokens,
        num_source=item.num_source,
        dropout_key=item.dropout_key,
        weight=item.weight,
        label=item.label,
    )


@torch.no_grad()
def _losses(bank: Bank, items: Sequence[Item]) -> Tensor:
    return bank.item_losses(items).detach().clone()


@contextmanager
def _restored(bank: Bank, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Puts every trained tensor back to what it was, and the bank into the mode that it was in."""
    kept = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    module: Any = bank
    was_training = bool(module.training)
    bank.eval()
    try:
        yield
    finally:
        bank.train(was_training)
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(kept[key])
                parameter.grad = None


def _devices(bank: Bank) -> list[torch.device]:
    return [bank.device] if bank.device.type == "cuda" else []
