"""What a GPU computes by common calls equals what a CPU computes member by member, here both on a CPU in float32."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM

from harness.banks.shared import AdapterBank
from harness.config.schema import AdapterConfig
from harness.nn import member_row
from harness.nn.attention import PACKED
from harness.nn.batch import Item, Segment
from harness.nn.low_rank import Alone, Blocks, Grouped, Stacked
from harness.nn.member_row import Kernels
from harness.nn.rows import Layout
from tests.philox import philox_on_cpu
from tests.tiny import VOCAB_SIZE, make_checkpoint

LORA = AdapterConfig(name="lora", lora_r=8, lora_alpha=8, lora_dropout=0.2)
MEMBERS = {  # a run of three, a member of its own rank, one that has a few layers only
    "a": LORA,
    "b": replace(LORA, lora_alpha=32, lora_dropout=0.4),
    "c": replace(LORA, lora_dropout=0.0),
    "d": replace(LORA, lora_r=16),
    "e": replace(LORA, targets=["q_proj", "down_proj"]),
    "f": LORA,
}
GROUPED = Kernels(together=True, grouped=frozenset({torch.float32}))
BLOCKS = Kernels(together=True)
STACKED = Kernels(together=True, stacked=True)
ROW_MASKS = Kernels(together=True, grouped=frozenset({torch.float32}), row_masks=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def _philox() -> Iterator[None]:
    with philox_on_cpu():
        yield


def make_bank(folder: Path, kernels: Kernels, members: Sequence[str] = tuple(MEMBERS)) -> AdapterBank:
    bank = AdapterBank(AutoModelForCausalLM.from_pretrained(folder, attn_implementation=PACKED))
    return fill(bank, kernels, members)


def fill(bank: AdapterBank, kernels: Kernels, members: Sequence[str]) -> AdapterBank:
    bank.row.kernels = kernels
    for member in members:
        bank.add_member(member, MEMBERS[member], seed=ord(member))
        generator = torch.Generator().manual_seed(ord(member))
        for name, parameter in bank.member_parameters(member).items():
            if "lora_B" in name:  # zero at first
                parameter.data.normal_(std=0.1, generator=generator)
    bank.train()
    return bank


def make_items(members: Sequence[str], step: int = 0) -> list[Item]:
    rng = np.random.default_rng(step)
    return [
        Item(
            member=member,
            tokens=rng.integers(3, VOCAB_SIZE, size=int(rng.integers(4, 12))).astype(np.int32),
            num_source=2,
            dropout_key=10 * step + place,
            weight=1.0,
        )
        for member in members
        for place in range(2)
    ]


def train_rows(bank: AdapterBank, members: Sequence[str] = tuple(MEMBERS)) -> dict[str, torch.Tensor]:
    """Losses and gradients of two rows."""
    result = {}
    for step in range(2):
        losses = bank.item_losses(make_items(members, step))
        losses.sum().backward()
        result[f"losses {step}"] = losses.detach()
    for member in members:
        for name, parameter in bank.member_parameters(member).items():
            assert parameter.grad is not None
            result[f"{member} {name}"] = parameter.grad
    return result


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kernels", [GROUPED, BLOCKS, STACKED], ids=["grouped", "blocks", "stacked"])
def test_common_calls_train_as_single_ones(folder: Path, kernels: Kernels, checkpointing: bool) -> None:
    bank = make_bank(folder, kernels)
    bank.set_checkpointing(checkpointing)
    assert_equal(train_rows(bank), train_rows(make_bank(folder, Kernels())))


@pytest.mark.parametrize("kernels", [GROUPED, BLOCKS, STACKED], ids=["grouped", "blocks", "stacked"])
def test_a_padded_batch_trains_as_with_single_calls(kernels: Kernels) -> None:
    def make(kernels: Kernels) -> AdapterBank:
        torch.manual_seed(0)
        base = BloomForCausalLM(BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4))
        return fill(AdapterBank(base, layout=Layout(is_packed=False)), kernels, "abc")

    assert_equal(train_rows(make(kernels), "abc"), train_rows(make(Kernels()), "abc"))


@pytest.mark.usefixtures("_philox")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_masks_of_a_row_are_those_of_a_run_alone(folder: Path, checkpointing: bool) -> None:
    together = make_bank(folder, ROW_MASKS)
    together.set_checkpointing(checkpointing)
    result = train_rows(together)
    for member in MEMBERS:
        alone = make_bank(folder, ROW_MASKS, [member])
        for step in range(2):
            items = [item for item in make_items(tuple(MEMBERS), step) if item.member == member]
            alone.item_losses(items).sum().backward()
        for name, parameter in alone.member_parameters(member).items():
            torch.testing.assert_close(parameter.grad, result[f"{member} {name}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kernels", [GROUPED, BLOCKS, STACKED, ROW_MASKS], ids=["grouped", "blocks", "stacked", "row masks"]
)
def test_evaluation_sees_changed_weights_and_the_untouched_base(folder: Path, kernels: Kernels) -> None:
    segments = [Segment(num_tokens=3, member=member) for member in ("a", "b", None, "c", "f")]
    tokens = torch.arange(5, 20)[None]
    ours, theirs = make_bank(folder, kernels).eval(), make_bank(folder, Kernels()).eval()
    for _ in range(2):
        with torch.no_grad():
            hidden = [bank(tokens, segments) for bank in (ours, theirs)]
            again = ours(tokens, segments)  # with the factors that were cast for the row before
        torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-4, atol=1e-5)
        assert torch.equal(again, hidden[0])
        for bank in (ours, theirs):
            bank.train()
            for parameter in bank.member_parameters("b").values():
                parameter.data.mul_(1.5)
            bank.eval()
    for bank in (ours, theirs):  # a member of the same name, in the same place
        bank.remove_member("b")
        bank.add_member("b", LORA, seed=99)
    with torch.no_grad():
        hidden = [bank(tokens, segments) for bank in (ours, theirs)]
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-4, atol=1e-5)


def test_which_members_share_a_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(kernels: Kernels, lengths: Sequence[int]) -> list[tuple[type, int]]:
        bank = make_bank(folder, kernels)
        segments = [Segment(num_tokens=n, member=m) for m, n in zip(MEMBERS, lengths, strict=True)]
        bank.begin_row(segments)
        layer = bank.layers["model.layers.0.self_attn.k_proj"]  # which e lacks
        spans = [span for span in bank.row.spans if span.member in layer.lora_a]
        terms = bank.row.terms(layer, spans, torch.zeros(sum(lengths), 32))
        return [(type(term.products), len(term.a_KRI)) for term in terms]

    assert kinds(GROUPED, [3] * 6) == [(Grouped, 3), (Alone, 1), (Alone, 1)]
    assert kinds(BLOCKS, [3] * 6) == [(Blocks, 3), (Alone, 1), (Alone, 1)]
    assert kinds(Kernels(), [3] * 6) == [(Alone, 1)] * 5
    assert kinds(STACKED, [3] * 6) == [(Stacked, 3), (Alone, 1), (Alone, 1)]
    assert kinds(STACKED, [3, 4, 4, 3, 3, 3]) == [(Alone, 1), (Stacked, 2), (Alone, 1), (Alone, 1)]
    assert kinds(STACKED, [1000] * 6) == [(Stacked, 3), (Alone, 1), (Alone, 1)]
    monkeypatch.setattr(member_row, "BLOCK_ELEMENTS", 2 * 8 * 6)  # of two members of rank 8 with 3 tokens each
    assert kinds(BLOCKS, [3] * 6) == [(Blocks, 2), (Alone, 1), (Alone, 1), (Alone, 1)]
    assert kinds(GROUPED, [3] * 6) == [(Grouped, 3), (Alone, 1), (Alone, 1)]


def test_members_of_one_length_train_together_as_alone(folder: Path) -> None:
    """Rows of which some are stacked, and some lie between others."""
    assert Kernels.of(torch.device("cpu")) == STACKED
    results = []
    for kernels in (STACKED, Kernels()):
        bank = make_bank(folder, kernels)
        items = [replace(item, tokens=item.tokens[:4]) for item in make_items(tuple(MEMBERS))]
        losses = bank.item_losses(items)
        losses.sum().backward()
        of_members = [bank.member_parameters(member).items() for member in MEMBERS]
        grads = {f"{place} {name}": p.grad for place, own in enumerate(of_members) for name, p in own}
        results.append({"losses": losses.detach()} | {name: grad for name, grad in grads.items() if grad is not None})
    assert_equal(*results)


def test_a_member_alone_is_not_copied_on_a_cpu(folder: Path) -> None:
    bank = make_bank(folder, STACKED)
    bank.begin_row([Segment(num_tokens=n, member=m) for m, n in zip("ab", (3, 4), strict=True)])
    layer = bank.layers["model.layers.0.self_attn.k_proj"]
    for term, member in zip(bank.row.terms(layer, bank.row.spans, torch.zeros(7, 32)), "ab", strict=True):
        assert term.a_KRI.data_ptr() == layer.lora_a[member].data_ptr()
        assert term.b_KOR.data_ptr() == layer.lora_b[member].data_ptr()
        assert not term.a_KRI.requires_grad
