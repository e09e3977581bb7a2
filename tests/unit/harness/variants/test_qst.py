"""QST: the equation by hand, the base's function at step 0, no graph through the base, read again the same."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaModel

from harness.banks.load import make_bank
from harness.banks.side import SideBank
from harness.config.schema import AdapterConfig, AdapterMethod, ModelKind
from harness.identity.proof import NotTheMethodError, prove
from harness.methods.table import METHODS
from harness.runs.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, bank_method
from harness.training.loop import train_group
from harness.variants.qst import SideNetwork, keeping
from tests.builders import make_member, weights
from tests.tiny import VOCAB_SIZE, make_checkpoint
from tests.unit.harness.banks.test_causal import CPU, QUANTS, losses, make_items, move

OWN_FIELDS = ("about", "qst_reduction", "qst_down_rank")
FAMILIES: dict[str, Any] = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


def config(reduction: int = 4, down_rank: int = 4) -> AdapterConfig:
    made = AdapterConfig(name="qst", method=AdapterMethod.qst, lora_dropout=0.0)
    return replace(made, qst_reduction=reduction, qst_down_rank=down_rank)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


def own_bank(folder: Path, quant: str = "none", adapter: AdapterConfig | None = None) -> Any:
    bank: Any = make_bank(folder, ModelKind.causal, AdapterMethod.qst, QUANTS[quant], CPU)
    bank.add_member("a", adapter or config(), seed=3)
    return bank


def base_of(family: str = "llama", **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(FAMILIES[family](**sizes | heads | changes)).eval()


def run(base: Any, side: SideNetwork, ids: Tensor) -> Tensor:
    with keeping(side, base) as kept:
        last = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    logits: Tensor = base.lm_head(side.mixed(last, side(kept)))
    return logits


class ByHand(nn.Module):
    """The equation written anew on a LLaMA, one sequence at a time, with transformers' own hidden states."""

    def __init__(self, folder: Path, side: SideNetwork) -> None:
        super().__init__()
        self.base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
        wide = self.base.config
        small = LlamaConfig(**wide.to_dict() | {"hidden_size": 8, "intermediate_size": 16, "head_dim": 2})
        small._attn_implementation = "eager"
        self.small = LlamaModel(small)
        width = range(wide.num_hidden_layers)
        self.a, self.b = ([nn.Linear(*size, bias=False) for _ in width] for size in ((32, 4), (4, 8)))
        self.ln, self.gates = [nn.LayerNorm(8) for _ in width], [torch.zeros(8, requires_grad=True) for _ in width]
        self.up, self.alpha = nn.Linear(8, 32), torch.ones(1, requires_grad=True)
        named = dict(side.named_parameters())
        self.pairs = [(named["alpha"], self.alpha), (named["norm.weight"], self.small.norm.weight)]
        self.pairs += [(named["up.weight"], self.up.weight), (named["up.bias"], self.up.bias)]
        for i in width:
            own = [self.a[i].weight, self.b[i].weight, self.ln[i].weight, self.ln[i].bias, self.gates[i]]
            theirs = [f"blocks.{i}.{k}" for k in ("down.0.weight", "down.2.weight", "down.3.weight", "down.3.bias")]
            self.pairs += zip([named[key] for key in [*theirs, f"blocks.{i}.gate"]], own, strict=True)
            layers = self.small.layers[i].named_parameters()
            self.pairs += [(named[f"blocks.{i}.layer.{key}"], value) for key, value in layers]
        for value, own in self.pairs:
            own.data.copy_(value.detach())

    def logits(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            states = self.base(ids, output_hidden_states=True).hidden_states
            last, captured = states[-1], list(states[:-1])
            hook = self.base.model.layers[-1].register_forward_hook(lambda *call: captured.append(call[2]))
            self.base(ids)
            hook.remove()
        positions = torch.arange(ids.shape[1])[None]
        hidden = captured[-1] if isinstance(captured[-1], Tensor) else captured[-1][0]
        inputs = [*states[1:-1], hidden]  # the last layer's output, before the last norm
        mask = torch.full((1, 1, ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        g = self.down(0, states[0])
        for i, h in enumerate(inputs):
            b = 1 / (1 + torch.exp(-self.gates[i]))
            mixed = (1 - b) * self.down(i, h) + b * g
            g = self.small.layers[i](
                mixed, attention_mask=mask, position_embeddings=self.small.rotary_emb(mixed, positions)
            )
            g = g if isinstance(g, Tensor) else g[0]
        made: Tensor = self.base.lm_head(self.alpha * last + (1 - self.alpha) * self.up(self.small.norm(g)))
        return made

    def down(self, i: int, h: Tensor) -> Tensor:
        made: Tensor = self.ln[i](self.b[i](functional.silu(self.a[i](h))))
        return made

    def losses(self) -> Tensor:
        parts = []
        for item in make_items():
            ids = torch.from_numpy(item.tokens).long()[None]
            rows = self.logits(ids)[0, item.num_source - 1 : -1]
            parts.append(functional.cross_entropy(rows, ids[0, item.num_source :], reduction="none"))
        return torch.cat(parts)


def test_steps_are_those_of_the_equation(folder: Path) -> None:
    bank = own_bank(folder)
    hand = ByHand(folder, bank.side)
    assert len(hand.pairs) == len(bank.member_parameters("a"))
    ours = torch.optim.SGD(bank.member_parameters("a").values(), lr=0.1)
    theirs = torch.optim.SGD([own for _, own in hand.pairs], lr=0.1)
    first = None
    for _ in range(4):
        mine, own = bank.item_losses(make_items()), hand.losses()
        torch.testing.assert_close(mine, own, rtol=0, atol=2e-4)
        first = mine.detach() if first is None else first
        for optimizer, loss in ((ours, mine), (theirs, own)):
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
    assert float(mine.detach().mean()) < float(first.mean())
    assert float((mine.detach() - first).abs().max()) > 1e-3


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("down_rank", [0, 2])
def test_the_base_at_step_0_then_it_learns_without_a_graph_through_the_base(family: str, down_rank: int) -> None:
    base = base_of(family)  # its parameters ask for gradients, so that a graph through them would show
    side = SideNetwork(base, reduction=4, down_rank=down_rank)
    ids = torch.arange(1, 9)[None]
    own = base(input_ids=ids).logits
    optimizer, found = torch.optim.Adam(side.parameters(), lr=0.01), []
    for step in range(8):
        logits = run(base, side, ids)
        if step == 0:
            assert torch.equal(logits, own)
        loss = functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert all(parameter.grad is None for parameter in base.get_decoder().parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in side.parameters())
    assert found[-1] < found[0]


def test_later_tokens_are_not_seen() -> None:
    base = base_of()
    side = SideNetwork(base, reduction=4, down_rank=0)
    side.alpha.data.zero_()
    ids = torch.arange(1, 9)[None]
    assert torch.allclose(run(base, side, ids)[:, :5], run(base, side, ids[:, :5]), atol=1e-5)


@pytest.mark.parametrize(
    ("reduction", "changes", "problem"),
    [
        (3, {}, r"adapter\.qst_reduction=3: .* use one of 2, 4"),
        (8, {}, r"heads of 8 into even ones; use one of 2, 4"),
        (4, {"intermediate_size": 66}, r"the 66 of its feed-forward layers.*use one of 2$"),
        (2, {"head_dim": 6}, r"its heads of 6 into even ones; use adapter=lora"),
    ],
)
def test_a_reduction_that_does_not_divide_is_refused(reduction: int, changes: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SideNetwork(base_of(**changes), reduction, down_rank=0)


def test_as_many_numbers_as_its_parts_have() -> None:
    side = SideNetwork(base_of(), reduction=4, down_rank=0)  # width 8, inner 16, heads of 2, half as many keys
    block = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert sum(p.numel() for p in side.parameters()) == 2 * (block + 32 * 8 + 8) + 8 + 8 * 32 + 32 + 1


@pytest.mark.parametrize("quant", sorted(QUANTS))
@pytest.mark.parametrize("down_rank", [0, 4])
def test_a_run_is_the_method_on_all_weights_and_is_read_again(
    folder: Path, tmp_path: Path, quant: str, down_rank: int
) -> None:
    bank = make_bank(folder, ModelKind.causal, AdapterMethod.qst, QUANTS[quant], CPU)
    untouched = losses(bank, None)  # type: ignore[arg-type]
    bank.add_member("a", chosen := config(down_rank=down_rank), seed=3)
    assert torch.equal(losses(bank), untouched)  # type: ignore[arg-type]
    proof = prove(bank, "a", chosen)
    checks = [proof.checks[name] for name in ("parameters", "start", "learns", "frozen", "saved")]
    assert checks == ["passed"] * 5
    assert proof.checks["differs from LoRA"] == "passed: no backward pass goes through the base"
    assert torch.equal(losses(bank), untouched)  # type: ignore[arg-type]
    assert all(p.dtype is torch.float32 for p in bank.member_parameters("a").values())
    move(bank)  # type: ignore[arg-type]
    bank.save_member("a", tmp_path, "tiny", "main")
    assert bank_method(tmp_path) is AdapterMethod.qst
    again = make_bank(folder, ModelKind.causal, bank_method(tmp_path), QUANTS[quant], CPU)
    again.load_member("a", tmp_path)
    assert torch.equal(losses(again), losses(bank.eval()))  # type: ignore[arg-type]
    assert not torch.equal(losses(again), untouched)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_packed_rows_equal_sequences_alone(family: str, tmp_path: Path) -> None:
    """Of each family through its bank; Mistral's window is shorter than the sequences, and Qwen has biases."""
    window = {"sliding_window": 8} if family == "mistral" else {}
    base_of(family, vocab_size=VOCAB_SIZE, initializer_range=0.2, **window).save_pretrained(tmp_path)
    bank = own_bank(tmp_path).eval()
    start = losses(bank)
    assert prove(bank, "a", config()).checks["parameters"] == "passed"
    move(bank, 0.3)
    with torch.no_grad():
        alone = torch.cat([bank.item_losses([item]) for item in make_items()])
    torch.testing.assert_close(losses(bank), alone, rtol=0, atol=1e-4)
    assert float((alone - start).abs().max()) > 0.1


def test_the_numbers_of_every_family_are_the_formulas() -> None:
    for family in FAMILIES:
        for rank, changes in ((0, {}), (4, {}), (4, {"head_dim": 16})):  # heads wider than the width shared out
            base = base_of(family, **changes)
            side = SideNetwork(base, 2, rank)
            layers = [m for key, m in base.named_modules() if isinstance(m, nn.Linear) and key != "lm_head"]
            fields = {"qst_reduction": 2, "qst_down_rank": rank, "hidden_size": 32, "num_layers": 2}
            fields["num_biases"] = sum(0 if m.bias is None else len(m.bias) for m in layers)
            count = METHODS["qst"].count
            assert count is not None
            named = [(m.in_features, m.out_features, "") for m in layers]
            assert count(named, fields) == sum(p.numel() for p in side.parameters())


def test_an_impostor_with_a_graph_through_the_base_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def leaking(*args: Any) -> Iterator[Any]:
        with keeping(*args) as kept, torch.enable_grad():
            yield kept

    bank = own_bank(folder)
    monkeypatch.setattr("harness.banks.side.keeping", leaking)
    with pytest.raises(NotTheMethodError, match=r"identity, differs from LoRA: .* goes through the base"):
        prove(bank, "a", config())


def test_another_number_of_weights_is_refused(folder: Path) -> None:
    bank = own_bank(folder)
    bank.side.alpha = nn.Parameter(torch.ones(32))
    with pytest.raises(NotTheMethodError, match="identity, parameters"):
        prove(bank, "a", config())


def test_small_steps_of_alpha_are_not_lost_in_16_bits(folder: Path) -> None:
    bank = own_bank(folder, "nf4-bf16")
    start = losses(bank)
    bank.side.alpha.data.fill_(0.999)  # bfloat16 rounds it to 1
    bank.side.up.bias.data.fill_(100.0)
    assert not torch.equal(losses(bank), start)


def test_recomputed_blocks_give_the_same_gradients(folder: Path) -> None:
    found = []
    for on in (False, True):
        bank = own_bank(folder).train()
        bank.set_checkpointing(on)
        bank.side.alpha.data.fill_(0.5)
        bank.item_losses(make_items()).mean().backward()
        found.append({key: p.grad for key, p in bank.member_parameters("a").items()})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_resumed_run_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    banks = [SideBank(folder, QUANTS["none"], CPU) for _ in range(3)]
    for bank, place, until in zip(banks, ("straight", "stopped", "stopped"), (None, 2, None), strict=True):
        member, _ = make_member("a", tmp_path / place, max_steps=4)
        member.adapter, member.until = config(), until
        train_group(bank, [member])
        assert member.error is None
    straight, stopped, resumed = (weights(bank, "a") for bank in banks)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    assert not all(torch.equal(straight[key], stopped[key]) for key in straight)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"qst_reduction": 2}, "doesn't fit this base model: .* has the shape"),
        ({"qst_down_rank": 0}, "doesn't fit this base model: .* is on one side only"),
        ({"qst_reduction": None}, "qst_reduction=None: expected a whole number from 2 on"),
        ({"qst_down_rank": True}, "qst_down_rank=True: expected a whole number"),
        ({**dict.fromkeys(OWN_FIELDS), "peft_type": "LORA"}, "peft_type=LORA: no side network"),
    ],
)
def test_files_of_another_kind_or_base_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    own_bank(folder).save_member("a", tmp_path, "tiny", "main")
    file = tmp_path / ADAPTER_CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    bank = SideBank(folder, QUANTS["none"], CPU)
    with pytest.raises(ValueError, match=problem):
        bank.load_member("a", tmp_path)
    assert not bank.configs


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    bank = own_bank(folder)
    bank.save_member("a", tmp_path, "tiny", "main")
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(b"1234")
    with pytest.raises(ValueError, match="copy it anew"):
        bank.read_again("a", tmp_path)
