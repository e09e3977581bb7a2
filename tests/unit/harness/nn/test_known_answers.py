"""Small parts against values by hand: positions, shares, masks, seeds, losses of models with a rule of their own."""

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from harness.config.schema import DType, QuantConfig, QuantMethod
from harness.nn import batch, head, loss
from harness.nn.batch import Item, pack, pad, padded_batches, share_out, split_rows
from harness.nn.dropout import Drawn, RowMasks, draw_mask, mix_seed, rounded_probability
from harness.nn.loss import ruled_losses, target_losses, trained_head_losses, trained_ruled_losses
from harness.nn.quant import as_linear, features, quantize_linear, quantized_share, require_quantized

CPU = torch.device("cpu")


def item(num_tokens: int, num_source: int = 1) -> Item:
    tokens = np.arange(num_tokens, dtype=np.int32)
    return Item(member="a", tokens=tokens, num_source=num_source, dropout_key=0, weight=1.0)


# Rows.


def test_positions_begin_anew_in_each_example() -> None:
    row = pack([item(3), item(1), item(4, 3)], CPU)
    assert row.position_ids_1N.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3]]
    assert row.target_at_M.tolist() == [0, 1, 6]


def test_a_row_may_be_full_to_the_last_token() -> None:
    assert [[len(i.tokens) for i in row] for row in split_rows([item(3), item(2), item(1)], 5)] == [[3, 2], [1]]


def test_shares_by_hand() -> None:
    """5, 4, 3, 3, 1: the longest first, each to whom has least; within a rank in the items' order."""
    items = [item(3), item(5), item(1), item(4), item(3)]
    shares = share_out(items, 2)
    places = {id(one): place for place, one in enumerate(items)}
    assert [[places[id(one)] for one in share] for share in shares] == [[1, 4], [0, 2, 3]]


def test_padded_batches_by_hand() -> None:
    assert padded_batches([2, 5, 1]) == [[1], [0, 2]]  # 5 and 2 would take 10 of 8; 2 and 1 take 4
    assert padded_batches([4, 4]) == [[0, 1]]


def test_padding_is_on_the_right_and_no_token() -> None:
    ids, mask = pad([np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)], 9, CPU)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


# Dropout.


def test_seeds_are_splitmix64s_and_have_63_bits() -> None:
    assert mix_seed(0, 0, 0) == 6238072747940578789  # splitmix64's finalizer of 1
    assert mix_seed(3, 5, 7) == 692906472280475928  # as runs up to now drew
    found = {mix_seed(seed, key, layer) for seed in range(4) for key in range(4) for layer in range(4)}
    assert len(found) == 64
    assert all(0 <= seed < 2**63 for seed in found)
    assert min(seed.bit_length() for seed in found) < 63 == max(seed.bit_length() for seed in found)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
def test_a_mask_keeps_what_it_says(probability: float) -> None:
    mask = torch.empty(101, 333, dtype=torch.bool)
    draw_mask(mask, probability, 7)
    kept, expected = mask.double().mean().item(), 1 - rounded_probability(probability, CPU)
    assert abs(kept - expected) <= 4 * (expected * (1 - expected) / mask.numel()) ** 0.5
    again, other = torch.empty_like(mask), torch.empty_like(mask)
    draw_mask(again, probability, 7)
    draw_mask(other, probability, 8)
    assert torch.equal(mask, again)
    assert torch.equal(mask, other) == (probability == 0.0)


def test_a_cpus_probability_is_a_65536th() -> None:
    assert rounded_probability(0.1, CPU) == 6554 / 65536
    assert rounded_probability(0.1, torch.device("cuda")) == 0.1


# Losses of a model with a rule: here a cap on the logits.

N, D, V = 11, 4, 6


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("which", ["ruled", "trained rule", "trained head"])
def test_losses_and_gradients_are_autograds(which: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * V * chunk)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, D, generator=generator).requires_grad_() for rows in (N, V))
    targets = torch.randint(V, (N,), generator=generator)
    upstream = torch.linspace(0.1, 2.0, N)

    def rule(h: Tensor) -> Tensor:
        logits = (h @ weight.T).float()
        return logits if which == "trained head" else 2 * torch.tanh(logits / 2)

    computed: dict[str, Callable[[], Tensor]] = {
        "ruled": lambda: ruled_losses(hidden, rule, targets, chunk),
        "trained rule": lambda: trained_ruled_losses(hidden, rule, targets, chunk),
        "trained head": lambda: trained_head_losses(hidden, weight, targets),
    }
    expected = functional.cross_entropy(rule(hidden), targets, reduction="none")
    wanted = torch.autograd.grad((expected * upstream).sum(), [hidden, weight])
    ours = computed[which]()
    torch.testing.assert_close(ours, expected)
    (ours * upstream).sum().backward()
    torch.testing.assert_close(hidden.grad, wanted[0])
    assert (weight.grad is None) == (which == "ruled")  # frozen there
    if weight.grad is not None:
        torch.testing.assert_close(weight.grad, wanted[1])


@pytest.mark.parametrize("losses", [trained_ruled_losses, ruled_losses])
def test_no_target_no_ruled_loss(losses: Callable[..., Tensor]) -> None:
    found = losses(torch.zeros(0, D), lambda h: h, torch.zeros(0, dtype=torch.int64), 4)
    assert (found.shape, found.dtype) == ((0,), torch.float32)


class Counted(TorchDispatchMode):
    """Counts the operations that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("num_bytes", "chunk"), [(1, 1), (4 * V * 3 - 1, 2), (4 * V * 3, 3), (4 * V * 100, 100)])
def test_logits_are_held_for_as_many_positions_as_fit(
    num_bytes: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_BYTES", num_bytes)
    monkeypatch.setattr(head, "CHUNK_BYTES", num_bytes)
    hidden, weight, targets = torch.randn(N, D), torch.randn(V, D), torch.zeros(N, dtype=torch.int64)
    with Counted() as counted:
        target_losses(hidden, weight, targets)
    assert counted.counts["amax"] == -(-N // chunk)
    sizes: list[int] = []
    of_chunk = loss._chunk_losses
    monkeypatch.setattr(loss, "_chunk_losses", lambda h, w, t: sizes.append(len(t)) or of_chunk(h, w, t))
    trained_head_losses(hidden, weight, targets)
    assert sizes == [min(chunk, N - start) for start in range(0, N, chunk)]
    layer = nn.Linear(D, V)
    asked: list[int] = []
    monkeypatch.setattr(head, "trained_ruled_losses", lambda *given: asked.append(given[3]))
    of_layer = SimpleNamespace(_layer=layer, is_product=False, logits=None, weight=layer.weight)
    of_layer.chunk = head.Head.chunk.fget(of_layer)  # type: ignore[attr-defined]
    head.Head.losses(of_layer, hidden, targets)  # type: ignore[arg-type]
    assert (of_layer.chunk, asked) == (chunk, [max(1, chunk // 4)])


def test_losses_are_of_32_bits_whatever_torchs_default_is() -> None:
    hidden, weight, targets = torch.randn(N, D), torch.randn(V, D), torch.zeros(N, dtype=torch.int64)

    def rule(h: Tensor) -> Tensor:
        return h @ weight.T

    torch.set_default_dtype(torch.float64)
    try:
        found = [
            target_losses(hidden, weight, targets),
            ruled_losses(hidden, rule, targets, 4),
            trained_head_losses(hidden, weight, targets),
            trained_ruled_losses(hidden, rule, targets, 4),
            *(of(hidden[:0], weight, targets[:0]) for of in (target_losses, trained_head_losses)),
            *(of(hidden[:0], rule, targets[:0], 4) for of in (ruled_losses, trained_ruled_losses)),
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    assert {one.dtype for one in found} == {torch.float32}


# Quantization.


def conv1d(inputs: int, outputs: int) -> Conv1D:
    torch.manual_seed(0)
    layer = Conv1D(outputs, inputs)
    layer.bias.data.normal_()
    return layer


def test_gpt2s_layer_is_a_linear_one() -> None:
    layer, x = conv1d(6, 10), torch.randn(3, 6)
    assert features(layer) == features(as_linear(layer)) == features(nn.Linear(6, 10)) == (6, 10)
    torch.testing.assert_close(as_linear(layer)(x), layer(x))


@pytest.mark.parametrize("method", [QuantMethod.nf4, QuantMethod.fp4, QuantMethod.int8])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_a_quantized_layer_keeps_its_bias_and_nearly_its_weights(method: QuantMethod, kind: str) -> None:
    original: Any = conv1d(64, 32) if kind == "conv1d" else nn.Linear(64, 32)
    bias, x = original.bias.detach().clone(), torch.randn(5, 64)
    expected = original(x).detach()
    config = QuantConfig(name="x", method=method, double_quant=False, block_size=64, compute_dtype=DType.float32)
    layer = quantize_linear(original, config, CPU)
    assert torch.equal(layer.bias, bias)  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for name, parameter in layer.named_parameters() if name == "weight")
    assert (layer(x).detach() - expected).norm() < 0.2 * expected.norm()
    assert layer(torch.zeros(1, 64)).detach().flatten().tolist() == pytest.approx(bias.tolist(), abs=1e-3)


class Quantized(nn.Linear):
    """Stands for a layer of bitsandbytes."""


class Mixture(nn.Module):
    """An embedding and head of 10, quantized layers of 20 and others of `others` numbers."""

    def __init__(self, others: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
        self.quantized, self.shared = Quantized(2, 10, bias=False), nn.Parameter(torch.zeros(others, 1))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_the_quantized_share_counts_tables_and_the_refusal_does_not() -> None:
    assert quantized_share(Mixture(others=10)) == 20 / 50
    require_quantized(Mixture(others=6), "here")  # 20 of 26
    with pytest.raises(ValueError, match=r"here: quantization reaches 74% of .* \(shared, of shape \[7, 1\]"):
        require_quantized(Mixture(others=7), "here")
    tied = Mixture(others=6)
    tied.head.weight = tied.table.weight
    assert quantized_share(tied) == 20 / 36
    require_quantized(tied, "here")
    plain = Mixture(others=1)
    plain.quantized = nn.Linear(2, 10, bias=False)  # type: ignore[assignment]
    assert quantized_share(plain) == 0.0


def test_arrays_reach_a_gpu_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, array = MagicMock(), np.arange(3)
    monkeypatch.setattr(batch.torch, "from_numpy", lambda sent: tensor if sent is array else None)
    gpu = torch.device("cuda", 0)
    assert batch.send(array, gpu) is tensor.pin_memory.return_value.to.return_value
    tensor.pin_memory.return_value.to.assert_called_once_with(gpu, non_blocking=True)
    assert batch.send(array, torch.device("cpu")) is tensor.to.return_value
    tensor.pin_memory.assert_called_once()


def test_a_rows_probabilities_are_of_the_draws_data_type() -> None:
    drawn = [Drawn(num_tokens=2, probability=0.1, seed=1), Drawn(num_tokens=1, probability=0.0, seed=2)]
    masks = RowMasks(drawn, torch.device("cpu"))
    assert masks._probability_N1.dtype == torch.float32
    assert masks._probability_N1[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.0])
