"""Rows by hand: what a decoder is given, what of it comes back, which sequences are tried, how a refusal reads."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, LlamaConfig

from harness.nn.attention import Packed
from harness.nn.head import HeadError
from harness.nn.rows import (
    MAX_ERRORS,
    PACKED_ROWS,
    BatchCache,
    Layout,
    _Asked,
    _right_aligned,
    _Trial,
    difference,
    its_own_errors,
    make_ready,
    packed_hidden,
    padded_hidden,
    trial_sequences,
)

CPU = torch.device("cpu")
ROW = torch.tensor([[11, 12, 21, 22, 23, 31]])
LENGTHS = [2, 3, 1]


class Decoder:
    """Gives each token's id for its hidden state, and notes what it is called with."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def __call__(self, **given: Any) -> SimpleNamespace:
        self.told.append(given)
        return SimpleNamespace(last_hidden_state=given["input_ids"][..., None].float())

    def forward(self, input_ids: Tensor) -> None: ...


class Positioned(Decoder):
    def forward(self, input_ids: Tensor, position_ids: Tensor) -> None: ...  # type: ignore[override]


def model_of(decoder: Decoder) -> Any:
    return SimpleNamespace(get_decoder=lambda: decoder, config=SimpleNamespace(model_type="toy"))


def values(**given: Any) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in given.items()}


def test_padding_on_the_left() -> None:
    assert _right_aligned([2, 3, 1], CPU).long().tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 1]]


def test_a_padded_batch() -> None:
    decoder = Decoder()
    hidden = padded_hidden(model_of(decoder), ROW, LENGTHS)
    assert hidden.tolist() == ROW[..., None].tolist()
    assert [values(**told) for told in decoder.told] == [
        {
            "input_ids": [[11, 12, 0], [21, 22, 23], [31, 0, 0]],
            "attention_mask": [[1, 1, 0], [1, 1, 1], [1, 0, 0]],
            "use_cache": False,
        }
    ]
    with pytest.raises(ValueError, match="its attention can't share prefixes here"):
        padded_hidden(model_of(decoder), ROW, LENGTHS, Packed(LENGTHS))


def test_a_packed_row() -> None:
    decoder = Decoder()
    model, plan = model_of(decoder), Packed(LENGTHS)
    assert packed_hidden(model, ROW, LENGTHS).tolist() == ROW[..., None].tolist()
    packed_hidden(model, ROW, LENGTHS, torch.arange(6)[None], plan)
    one, two = decoder.told
    assert (one["position_ids"].tolist(), one["plan"].lengths, one["use_cache"]) == (
        [[0, 1, 0, 1, 2, 0]],
        LENGTHS,
        False,
    )
    assert two["plan"] is plan
    assert two["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="its rows are packed, and go on from the slots of a plan"):
        packed_hidden(model, ROW, LENGTHS, plan=BatchCache(None))


@pytest.mark.parametrize("decoder", [Decoder(), Positioned()])
def test_a_batch_goes_on_from_its_cache(decoder: Decoder) -> None:
    kept: list[list[int]] = []
    cache = BatchCache(SimpleNamespace(reorder_cache=lambda rows: kept.append(rows.tolist())))
    hidden = padded_hidden(model_of(decoder), ROW, LENGTHS, cache)
    assert hidden.tolist() == ROW[..., None].tolist()
    cache.keep([2, 1])
    assert kept == [[2, 1]]
    assert cache.mask_BL is not None
    assert cache.mask_BL.tolist() == [[0, 0, 1], [1, 1, 1]]
    cache.hidden(model_of(decoder), torch.tensor([[32, 24]]), [1, 1])
    first, second = (values(**told) for told in decoder.told)
    positions = first.pop("position_ids", None), second.pop("position_ids", None)
    assert positions == (
        ([[0, 0, 1], [0, 1, 2], [0, 0, 0]], [[1], [3]]) if type(decoder) is Positioned else (None, None)
    )
    assert first == {
        "input_ids": [[0, 11, 12], [21, 22, 23], [0, 0, 31]],
        "attention_mask": [[0, 1, 1], [1, 1, 1], [0, 0, 1]],
        "past_key_values": cache.cache,
        "use_cache": True,
    }
    assert second == first | {"input_ids": [[32], [24]], "attention_mask": [[0, 0, 1, 1], [1, 1, 1, 1]]}


GEMMA = Gemma2Config(num_hidden_layers=2, sliding_window=8)  # a sliding layer, then one that sees all


@pytest.mark.parametrize(
    ("config", "windows", "problem"),
    [
        (LlamaConfig(num_hidden_layers=2), {0: None, 1: None}, None),
        (LlamaConfig(num_hidden_layers=3), {0: None}, "2 of its 3 layers are no attention"),
        (GEMMA, {0: 8, 1: None}, None),
        (GEMMA, {0: None, 1: None}, "its layer 0 sees 8 tokens, and doesn't tell its attention"),
        (GEMMA, {0: 4, 1: None}, "its layer 0 sees 8 tokens, and doesn't tell its attention"),
    ],
)
def test_layers_that_short_sequences_cannot_show(
    config: Any, windows: dict[int, int | None], problem: str | None
) -> None:
    assert _Asked([1], windows=windows).problem(config) == problem


def test_a_layer_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["full_attention", "chunked_attention"]
    monkeypatch.setattr("harness.nn.rows.get_layer_types_and_kwargs", lambda config: (kinds, [{}, {}]))
    config = LlamaConfig(num_hidden_layers=2)
    assert _Asked([1], windows={0: None, 1: None}).problem(config) == "its layer 1 is of the kind chunked_attention"


def test_the_sequences_that_are_tried() -> None:
    """Of the first 60 tokens that the config gives no meaning of their own."""
    config = LlamaConfig(bos_token_id=1, eos_token_id=[2, 5], pad_token_id=None)
    for size in (50, 500):
        model = SimpleNamespace(get_input_embeddings=lambda size=size: nn.Embedding(size, 2), config=config)
        ids = [token for token in range(size) if token not in (1, 2, 5)][:60]
        drawn = np.random.default_rng(0).choice(np.array(ids), size=15).tolist()
        one, two = trial_sequences(model)
        assert (one.tolist(), two.tolist()) == ([drawn[:6]], [drawn[6:]])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HeadError("its head"), "can't be trained or scored here: its head$"),
        (
            AttributeError("'Linear' object has no attribute 'weight'\nmore"),
            r"takes linear layers apart, .*'weight'\)$",
        ),
        (AttributeError("no weight"), r"its own forward pass fails on a short text \(AttributeError: no weight\)"),
        (KeyError("layer"), r"its own forward pass fails on a short text \(KeyError: 'layer'\); take another"),
        (RuntimeError(), r"\(RuntimeError: RuntimeError\)"),
    ],
)
def test_a_models_own_errors_name_it(error: Exception, said: str) -> None:
    with (
        pytest.raises(ValueError, match=rf"here/model: model_type toy .*{said}"),
        its_own_errors(model_of(Decoder()), "here/model"),
    ):
        raise error
    with pytest.raises(torch.OutOfMemoryError), its_own_errors(model_of(Decoder()), "here"):
        raise torch.OutOfMemoryError("no room")


def trial(own_TD: Tensor) -> _Trial:
    row = torch.zeros(1, 3 * len(own_TD), dtype=torch.long)
    unused: Any = None
    return _Trial(model=unused, where="here", head=unused, row_1N=row, own_TD=own_TD, head_VD=torch.eye(2))


def test_a_sequence_is_compared_at_both_its_places() -> None:
    own = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    found = trial(own)
    between = torch.full((2, 2), 9.0)
    for first, last, differs in ((own, own, False), (own + 1, own, True), (own, own + 1, True)):
        problem = found.problem(lambda row, first=first, last=last: torch.cat([first, between, last])[None])
        assert (problem is not None) is differs
    assert trial(own * torch.nan).problem(lambda row: torch.cat([own, own])[None]) is not None

    def raises(error: Exception) -> Any:
        def hidden(_: Tensor) -> Tensor:
            raise error

        return hidden

    assert found.problem(raises(KeyError("a\nb"))) == r"'a\nb'"
    assert found.problem(raises(ValueError("a\nb"))) == "a"
    assert found.problem(raises(ValueError())) == "ValueError"
    with pytest.raises(torch.OutOfMemoryError):
        found.problem(raises(torch.OutOfMemoryError("no room")))


def test_who_is_made_ready() -> None:
    assert Layout(is_packed=True, window=None, is_lean=False, keeps_cache=False) == PACKED_ROWS
    told: list[str] = []
    model = SimpleNamespace(set_attn_implementation=told.append)
    make_ready(model, Layout(is_packed=False))
    assert told == []
    make_ready(model, Layout(is_packed=True))
    assert told == ["packed"]


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-3), (torch.float16, 0.02), (torch.bfloat16, 0.1)], ids=str
)
def test_logits_may_differ_by_the_rounding_of_their_data_type(dtype: torch.dtype, limit: float) -> None:
    """Two positions of mean 0 and length 1, the second off by a part of it."""
    own = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=dtype)
    for part, is_same in ((0.9 * limit, True), (1.1 * limit, False)):
        ours = own.double()[None].repeat(2, 1, 1)
        ours[1, 1] *= 1 + part
        said = difference(ours @ torch.eye(2, dtype=torch.float64), own[None], MAX_ERRORS[dtype])
        assert (said is None) is is_same
        assert said is None or said.startswith(f"its logits differ by {part:.2g} of their size")
        if dtype is torch.float32:
            assert (trial(own).difference(ours.float()) is None) is is_same
