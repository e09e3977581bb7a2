"""Whether a method's numbers fit the layers of a model: ranks, blocks and frequencies, as they are known to a plan.

    size_problem(config.adapter, [(4096, 11008, "up_proj")])   # "adapter.lora_r=5000 with adapter=miss: ..."

PEFT finds most of this when it makes its layers, which is when the base has been read; OFT's blocks it changes to
other ones, with a warning. Source: `update_layer` of PEFT 0.21's layers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.config.schema import AdapterConfig, AdapterMethod
from harness.methods.keys import peft_values
from harness.methods.peft_fields import defaults_of
from harness.methods.table import entry_of


class Layer(NamedTuple):
    """A linear layer that is adapted."""

    num_in: int
    num_out: int
    name: str


_Fields = Mapping[str, Any]
_Fits = Callable[[Layer, _Fields], tuple[str, str] | None]  # -> the field that doesn't fit, and why


def size_problem(adapter: AdapterConfig, layers: Sequence[Layer]) -> str | None:
    """-> which number of the method doesn't fit which layer, with the remedy; None if all do."""
    fits = _FITS.get(adapter.peft_type or "")
    if adapter.method is not AdapterMethod.peft or fits is None:
        return None
    assert adapter.peft_type is not None
    fields = defaults_of(adapter.peft_type) | peft_values(adapter)
    if any(key.endswith("_pattern") and value for key, value in fields.items()):
        return None  # numbers that differ by layer are checked by PEFT
    for layer in layers:
        if (found := fits(layer, fields)) is not None:
            field, why = found
            entry = entry_of(adapter)
            key = "adapter.lora_r" if entry is not None and field == entry.rank else f"adapter.peft.{field}"
            return f"{key}={fields.get(field)} with adapter={adapter.method_name}: {why}"
    return None


def _divides(field: str, *, of_inputs: bool = True, of_outputs: bool = True) -> _Fits:
    """The rule that a size divides a layer's inputs, outputs or both."""

    def fits(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
        size = fields.get(field)
        sides = {"inputs": layer.num_in} if of_inputs else {}
        sides |= {"outputs": layer.num_out} if of_outputs else {}
        if not isinstance(size, int) or size <= 0:
            return None  # PEFT's config refuses it
        for what, number in sides.items():
            if number % size:
                others = _divisors(*sides.values())
                return field, f"{layer.name} has {number:,} {what}, which it doesn't divide; use one of {others}"
        return None

    return fits


def _divisors(*numbers: int) -> str:
    common = [size for size in range(2, min(numbers) + 1) if not any(number % size for number in numbers)]
    return ", ".join(str(size) for size in common[:10]) or "1"


def _one_of(one: str, other: str) -> _Fits:
    """The rule that exactly one of two fields isn't 0."""

    def fits(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
        if bool(fields[one]) != bool(fields[other]):
            return None
        return one, f"adapter.peft.{other}={fields[other]} says the same in another way; set exactly one of them to 0"

    return fits


def _miss(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    rank, start = fields["r"], fields["init_weights"]
    if rank > layer.num_in:
        return "r", f"{layer.name} has {layer.num_in:,} inputs; use {layer.num_in} or less"
    if start == "bat":
        return _divides("r")(layer, fields)
    return _divides("mini_r", of_inputs=False)(layer, fields) if start == "mini" else None


def _oft(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    """PEFT takes another block where this one doesn't divide the inputs."""
    field = "oft_block_size" if fields["oft_block_size"] else "r"
    return _one_of("oft_block_size", "r")(layer, fields) or _divides(field, of_outputs=False)(layer, fields)


def _boft(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    size, number = fields["boft_block_size"], fields["boft_block_num"]
    field = "boft_block_size" if size else "boft_block_num"
    problem = _one_of("boft_block_size", "boft_block_num")(layer, fields)
    if problem := problem or _divides(field, of_outputs=False)(layer, fields):
        return problem
    number, factors = number or layer.num_in // size, fields["boft_n_butterfly_factor"] - 1
    size = layer.num_in // number
    if factors <= 0 or (number % 2**factors == 0 and size % 2 == 0):
        return None
    return "boft_n_butterfly_factor", (
        f"{layer.name} has {number} blocks of {size} inputs; their number has to be a multiple of {2**factors}, their "
        "size even: use fewer factors, or another block"
    )


def _frequencies(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    number = layer.num_in * layer.num_out
    return (
        None if fields["n_frequency"] <= number else ("n_frequency", f"{layer.name} has {number:,} weights; use fewer")
    )


def _shira(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    largest = layer.num_in * layer.num_out // (layer.num_in + layer.num_out)
    why = (
        f"{layer.name} has {layer.num_in * layer.num_out:,} weights, LoRA of this rank has more; use {largest} or less"
    )
    return None if fields["r"] <= largest else ("r", why)


def _psoft(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    side = min(layer.num_in, layer.num_out)
    return None if fields["r"] <= side else ("r", f"{layer.name} has {side} rows or columns; use {side} or less")


def _gralora(layer: Layer, fields: _Fields) -> tuple[str, str] | None:
    if fields["r"] % fields["gralora_k"]:
        return "r", f"adapter.peft.gralora_k={fields['gralora_k']} doesn't divide it"
    return _divides("gralora_k")(layer, fields)


_FITS: Mapping[str, _Fits] = {
    "MISS": _miss,
    "OFT": _oft,
    "BOFT": _boft,
    "SHIRA": _shira,
    "FOURIERFT": _frequencies,
    "WAVEFT": _frequencies,
    "VBLORA": _divides("vector_length"),
    "C3A": _divides("block_size"),
    "GRALORA": _gralora,
    "ROAD": _divides("group_size", of_inputs=False),
    "PSOFT": _psoft,
}
