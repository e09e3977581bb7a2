"""LQ-LoRA's formats: their codebooks, scales and sizes, each by numbers worked out apart from the code."""

import bitsandbytes as bnb
import pytest
import torch

from harness.methods.formats import (
    FORMATS,
    LEAST_BITS,
    MOST_BITS,
    Format,
    bits_a_weight,
    digest,
    format_of,
    stored_bits,
    summary,
)
from harness.variants.lq_rounding import rounded


def kind(bits: int, scale_bits: int = 8, constant: str = "fp32", block: int = 16, group: int = 16) -> Format:
    return Format(bits, scale_bits, constant, block, group)


def test_there_are_the_authors_432_formats_and_each_is_read_by_its_name() -> None:
    assert len(set(FORMATS)) == 432 == 4 * 4 * 3 * 3 * 3
    assert [format_of(each.name) for each in FORMATS] == list(FORMATS)
    assert format_of("nf3-u8-fp32-64x256") == Format(3, 8, "fp32", 64, 256)
    with pytest.raises(ValueError, match="nf5: no format of LQ-LoRA's"):
        format_of("nf5")


def test_what_a_matrix_takes() -> None:
    """The paper's sum: b + b0 / B0 + b1 / (B0 B1), and an offset of 32 bits; blocks and groups rounded up."""
    whole = Format(3, 8, "fp32", 64, 256)
    assert bits_a_weight(whole) == 3 + 8 / 64 + 32 / (64 * 256)
    assert stored_bits(whole, 4 * 64 * 256) == bits_a_weight(whole) * 4 * 64 * 256 + 32
    assert stored_bits(Format(2, 4, "bf16", 16, 64), 33) == 2 * 33 + 4 * 3 + 16 * 1 + 32
    assert (LEAST_BITS, MOST_BITS) == (2 + 2 / 64 + 16 / (64 * 256), 8 + 8 / 16 + 32 / 256)


def test_four_bits_are_nf4() -> None:
    """A block whose largest number is 1 is rounded to bitsandbytes' own values."""
    values_K = bnb.functional.get_4bit_type("nf4", device="cpu")
    weight_OI = torch.cat([values_K, torch.linspace(-1, 1, 48)]).reshape(4, 16)
    mine = rounded(weight_OI, kind(4, block=64))
    torch.testing.assert_close(mine.flatten()[:16], values_K, rtol=0, atol=2e-7)
    nearest = values_K[(weight_OI.flatten()[:, None] - values_K).abs().argmin(1)]
    torch.testing.assert_close(mine.flatten(), nearest, rtol=0, atol=2e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_weight_has_as_many_values_as_its_bits_say(bits: int) -> None:
    weight_OI = torch.linspace(-1, 1, 16384).reshape(1, -1)
    values = rounded(weight_OI, Format(bits, 8, "fp32", 16384, 16)).unique()
    assert len(values) == 2**bits
    assert 0 in values
    assert (float(values[0]), float(values[-1])) == pytest.approx((-1, 1)) or bits == 2
    assert float(values[-1]) == 1


def test_scales_are_integers_above_the_smallest_in_groups() -> None:
    """Blocks of largest sizes 1, 1.6, 2 and 4; scales of 2 bits are 1 and a third, two thirds or all of 3 more."""
    sizes = torch.tensor([1.0, 1.6, 2.0, 4.0])
    weight_OI = sizes[:, None] * torch.tensor([1.0] + [0.0] * 15)
    of_eight_tenths = 2 * 0.7229568362236023  # NF4's nearest, times the second block's scale
    assert rounded(weight_OI, kind(4, scale_bits=2))[:, 0].tolist() == pytest.approx([1, of_eight_tenths, 2, 4])
    assert rounded(weight_OI, kind(4, scale_bits=8))[:, 0].tolist() == pytest.approx([1, 1.6, 2, 4])


def test_a_constant_is_held_in_its_type() -> None:
    size = 1 + 1 / 1000
    weight_OI = torch.tensor([[0.0] * 16, [size] + [0.0] * 15])
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        held = float(torch.tensor(size, dtype=dtype))
        assert float(rounded(weight_OI, kind(4, constant=name))[1, 0]) == pytest.approx(held, rel=1e-6), name


@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (16, 16), (33, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_and_type_comes_back_as_the_same_numbers(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight_OI = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for each in FORMATS[::29]:
        once = rounded(weight_OI, each)
        assert (once.shape, once.dtype) == (weight_OI.shape, dtype)
        assert once.isfinite().all()
        assert torch.equal(once, rounded(weight_OI.clone(), each))
    assert not rounded(torch.zeros(shape), FORMATS[0]).any()


def test_more_bits_and_smaller_blocks_are_nearer() -> None:
    weight_OI = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))

    def error(*numbers: int) -> float:
        return float((weight_OI - rounded(weight_OI, Format(numbers[0], numbers[1], "fp32", *numbers[2:]))).norm())

    by_bits = [error(bits, 8, 64, 256) for bits in (2, 3, 4, 8)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert [error(4, 8, block, 256) for block in (16, 32, 64)] == sorted(error(4, 8, b, 256) for b in (16, 32, 64))
    assert error(4, 8, 64, 16) < error(4, 2, 64, 16)


def test_what_a_record_says() -> None:
    small, large = FORMATS[0].name, Format(4, 8, "fp32", 64, 256).name
    found = summary({"a": small, "b": large, "c": large}, {"a": 100, "b": 6400, "c": 64})
    taken = stored_bits(format_of(small), 100) + sum(stored_bits(format_of(large), n) for n in (6400, 64))
    assert found["bits"] == taken / 6564
    assert (found["layers"], found["num_weights"], found["simulated"]) == ({small: 1, large: 2}, 6564, True)
    assert found["sha256"] == digest({"c": large, "b": large, "a": small}) != digest({"a": large, "b": large})
