"""The memory of a pass without gradients and of the cache, held to fake CUDA tensors."""

from dataclasses import replace

import pytest
import torch

from benchmarks.fake_memory import Case, LiveStorages, fake_tensors, make_bank
from harness.config.choices import quant_choice
from harness.config.schema import DType, QuantConfig
from harness.memory.decoding import forward_bytes, key_value_bytes_per_token, predict_decoding
from harness.memory.paper import RECIPE_ADAPTER, RECIPE_QUANT, llama_shape
from harness.memory.predict import weights_bytes
from harness.nn.attention import Packed
from harness.nn.batch import Segment

SEVEN = replace(llama_shape("7b"), num_layers=3)


def bfloat16(name: str) -> QuantConfig:
    return replace(quant_choice(name), compute_dtype=DType.bfloat16)


@pytest.mark.parametrize(("quant", "tokens"), [("nf4", 132), ("nf4", 4224), ("bf16", 2112)])
def test_a_row_of_prompts(quant: str, tokens: int) -> None:
    config, lengths = bfloat16(quant), [tokens // 4] * 4
    with fake_tensors(), LiveStorages() as storages, torch.no_grad():
        bank = make_bank(SEVEN, config, Case()).eval()
        storages.start_pass()
        before = storages.live_bytes
        segments = [Segment(num_tokens=length, member="member0", dropout_key=0) for length in lengths]
        recorded: list[tuple[torch.Tensor, torch.Tensor]] = []
        bank(torch.zeros((1, tokens), dtype=torch.long), segments, plan=Packed(lengths, record=recorded))
        measured = storages.peak_bytes - before
    keys_and_values = sum(tensor.nbytes for pair in recorded for tensor in pair)
    assert keys_and_values == tokens * key_value_bytes_per_token(SEVEN, DType.bfloat16)
    found = predict_decoding(SEVEN, config, RECIPE_ADAPTER, slots=1, tokens=tokens, prompt_tokens=tokens)
    assert found.working_bytes == forward_bytes(SEVEN, config, tokens) + keys_and_values
    factor_copies = found.adapter_bytes // 3  # the rest of it lay there before
    assert found.working_bytes + factor_copies == pytest.approx(measured, rel=0.05)


def test_the_cache_by_hand() -> None:
    assert key_value_bytes_per_token(llama_shape("7b"), DType.bfloat16) == 2 * 32 * 4096 * 2
    grouped = replace(llama_shape("7b"), num_kv_heads=8)
    assert key_value_bytes_per_token(grouped, DType.float32) == 2 * 32 * 8 * 128 * 4
    found = predict_decoding(llama_shape("65b"), RECIPE_QUANT, RECIPE_ADAPTER, slots=32, tokens=700, prompt_tokens=200)
    assert found.cache_bytes == 32 * 700 * 2 * 80 * 8192 * 2
    assert found.weights_bytes == weights_bytes(llama_shape("65b"), RECIPE_QUANT)
    assert found.total_bytes == found.weights_bytes + found.adapter_bytes + found.cache_bytes + found.working_bytes
    more = predict_decoding(llama_shape("65b"), RECIPE_QUANT, RECIPE_ADAPTER, slots=33, tokens=700, prompt_tokens=200)
    assert more.total_bytes - found.total_bytes == 700 * 2 * 80 * 8192 * 2
