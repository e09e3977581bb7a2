"""What is trained is float32 and moves at small rates, while the model computes what a 16-bit model computes."""

import gc
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    OPTConfig,
    PretrainedConfig,
)

from harness.banks.causal import FullBank, PeftBank, SegmentDropout
from harness.banks.classifier import ClassifierBank
from harness.banks.owned import OwnedBank
from harness.banks.seq2seq import Seq2SeqBank
from harness.config.schema import (
    AdapterConfig,
    AdapterMethod,
    DType,
    MasterWeights,
    ModelConfig,
    ModelKind,
    Optimizer,
    QuantConfig,
    QuantMethod,
    ShapeConfig,
    TrainConfig,
)
from harness.data.tokens import TokenizedExample
from harness.memory.predict import predict
from harness.nn.batch import Item, Segment
from harness.nn.masters import hold_in_float32
from harness.runs.compatibility import method_problem
from harness.training.group import Member, StepMetrics
from harness.training.loop import TrainingInterrupted, train_group
from tests.tiny import make_checkpoint
from tests.tiny_encoders import make_roberta, make_t5

CPU = torch.device("cpu")
BF16 = QuantConfig(name="bf16", method=QuantMethod.none, compute_dtype=DType.bfloat16)
KINDS = {"causal": ModelKind.causal, "seq2seq": ModelKind.seq2seq, "roberta": ModelKind.classifier}
NUM_LABELS = 3
METHODS = [method for method in AdapterMethod if method is not AdapterMethod.none]


def quant(method: QuantMethod, dtype: DType = DType.bfloat16) -> QuantConfig:
    return QuantConfig(name=method.value, method=method, compute_dtype=dtype)


def config(method: AdapterMethod, dropout: float = 0.0) -> AdapterConfig:
    return AdapterConfig(name=method.value, method=method, lora_r=4, lora_alpha=8, lora_dropout=dropout)


FULL = config(AdapterMethod.full)
FAST_ELSEWHERE = {
    AdapterMethod.lora: QuantMethod.nf4,
    AdapterMethod.dora: QuantMethod.nf4,
    AdapterMethod.full: QuantMethod.none,
}
FAST_CAUSAL = (AdapterMethod.lora, AdapterMethod.pissa, AdapterMethod.full)  # in every way of storing a base


def is_fast(kind: str, method: AdapterMethod, stored: QuantMethod) -> bool:
    if kind == "causal":
        return stored is QuantMethod.nf4 or method in FAST_CAUSAL
    return FAST_ELSEWHERE.get(method) is stored


CASES = [
    pytest.param(kind, method, stored, marks=[] if is_fast(kind, method, stored) else pytest.mark.slow)
    for kind in [*KINDS, "llama"]
    for method in METHODS
    for stored in (QuantMethod.none, QuantMethod.nf4, QuantMethod.int8)
    if stored is QuantMethod.nf4 or kind == "causal" or method in (AdapterMethod.lora, AdapterMethod.full)
    if method_problem(config(method), quant(stored), ModelConfig(name="m", kind=KINDS.get(kind, ModelKind.classifier)))
    is None
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    makers = {"causal": make_checkpoint, "roberta": make_roberta, "seq2seq": make_t5}
    made = {kind: make(tmp_path_factory.mktemp(kind)) for kind, make in makers.items()}
    return made | {"llama": made["causal"]}


def make_bank(folders: dict[str, Path], kind: str, stored: QuantConfig, method: AdapterMethod) -> OwnedBank:
    if kind in ("roberta", "llama"):
        return ClassifierBank(folders[kind], stored, CPU, num_labels=NUM_LABELS)
    if kind == "seq2seq":
        return Seq2SeqBank(folders[kind], stored, CPU)
    bank = (FullBank if method is AdapterMethod.full else PeftBank)(folders[kind], stored, CPU)
    bank.calibrate(make_items(kind))
    return bank


def make_examples() -> list[TokenizedExample]:
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 250, size=int(n)).astype(np.int32) for n in rng.integers(8, 30, size=4)]
    return [TokenizedExample(input_ids=row, num_source=len(row) // 3) for row in rows]


def make_items(kind: str = "causal") -> list[Item]:
    labels = [i % NUM_LABELS if kind in ("roberta", "llama") else None for i in range(4)]
    return [
        Item(member="a", tokens=e.input_ids, num_source=e.num_source, dropout_key=i, weight=1.0, label=labels[i])
        for i, e in enumerate(make_examples())
    ]


def train(bank: OwnedBank, kind: str, rate: float, num_steps: int) -> None:
    optimizer = torch.optim.AdamW(bank.member_parameters("a").values(), lr=rate, weight_decay=0.0)
    bank.train()
    for _ in range(num_steps):
        bank.item_losses(make_items(kind)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    bank.eval()


@torch.no_grad()
def losses(bank: OwnedBank, kind: str = "causal") -> Tensor:
    return bank.item_losses(make_items(kind))


def dtypes_inside(bank: OwnedBank, kind: str) -> set[torch.dtype]:
    """Of what the model's own layers, adapters included, hand on in a forward pass."""
    found: set[torch.dtype] = set()

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and "Rotary" not in type(module).__name__:
            found.add(output.dtype)

    watched = [m for name, m in bank.model.named_modules() if "lora_magnitude" not in name and "dropout" not in name]
    handles = [module.register_forward_hook(look) for module in watched]
    losses(bank, kind)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("kind", "method", "stored"), CASES)
def test_what_is_trained_is_float32_and_what_is_computed_is_not(
    folders: dict[str, Path], tmp_path: Path, kind: str, method: AdapterMethod, stored: QuantMethod
) -> None:
    bank = make_bank(folders, kind, quant(stored), method)
    bank.add_member("a", config(method, dropout=0.1), seed=3)
    trained = bank.member_parameters("a")
    assert trained
    frozen = [
        parameter
        for name, parameter in bank.model.named_parameters()
        if not parameter.requires_grad and parameter.is_floating_point() and ".lora_A." not in name  # LoRA-FA's
    ]
    bank.train()
    bank.item_losses(make_items(kind)).mean().backward()
    for name, parameter in trained.items():
        assert parameter.dtype is torch.float32, name
        assert parameter.grad is None or parameter.grad.dtype is torch.float32, name
    assert sum(parameter.grad is not None for parameter in trained.values()) >= len(trained) // 2
    assert {p.dtype for p in frozen} == (set() if method is AdapterMethod.full else {torch.bfloat16})
    train(bank, kind, rate=1e-3, num_steps=2)
    assert dtypes_inside(bank, kind) == {torch.bfloat16}
    expected = losses(bank, kind)
    bank.save_member("a", tmp_path, "tiny", "main")
    again = make_bank(folders, kind, quant(stored), method)
    again.load_member("a", tmp_path)
    assert torch.equal(losses(again, kind), expected)
    saved = [tensor for file in tmp_path.glob("*.safetensors") for tensor in load_file(file).values()]
    assert {tensor.dtype for tensor in saved} == {torch.float32}
    if method is not AdapterMethod.full:  # loaded, it is the same member: nothing was rounded, nothing is left out
        loaded = again.member_parameters("a")
        with_a = {name.replace("lora_B", "lora_A") for name in trained}  # LoRA-FA's file is plain LoRA
        assert loaded.keys() == trained.keys() | (with_a if method is AdapterMethod.lora_fa else set())
        assert all(torch.equal(trained[name], loaded[name]) for name in trained)


def moved(before: list[Tensor], after: list[Tensor]) -> float:
    """The share of elements that changed."""
    changed = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
    return changed / sum(tensor.numel() for tensor in before)


@pytest.mark.parametrize("kind", ["roberta", "llama"])
@pytest.mark.parametrize("method", [AdapterMethod.lora, AdapterMethod.dora, AdapterMethod.full])
def test_heads_move_at_a_small_rate(folders: dict[str, Path], kind: str, method: AdapterMethod) -> None:
    bank = make_bank(folders, kind, BF16, method)
    bank.add_member("a", config(method), seed=3)
    head = [p for name, p in bank.member_parameters("a").items() if "classifier." in name or "score." in name]
    before = [p.detach().clone() for p in head]
    train(bank, kind, rate=1e-5, num_steps=4)
    assert moved(before, [p.detach() for p in head]) > 0.95


@pytest.mark.parametrize(("wanted", "least", "most"), [("float32", 0.95, 1.0), ("compute", 0.0, 0.5)])
def test_full_finetuning_moves_at_a_small_rate(
    folders: dict[str, Path], wanted: str, least: float, most: float
) -> None:
    """In 16 bits most weights stay where they were; that is what `compute` asks for."""
    bank = FullBank(folders["causal"], BF16, CPU)
    bank.master_weights = MasterWeights(wanted)
    bank.add_member("a", FULL, seed=3)
    layers = [p for name, p in bank.member_parameters("a").items() if "_proj" in name]
    before = [p.detach().clone() for p in layers]
    train(bank, "causal", rate=1e-5, num_steps=20)
    assert least <= moved(before, [p.detach() for p in layers]) <= most
    assert {p.dtype for p in layers} == {torch.float32 if wanted == "float32" else torch.bfloat16}


SIZES = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, PretrainedConfig] = {
    "opt": OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0),  # type: ignore[arg-type]
    "pythia": GPTNeoXConfig(**SIZES, intermediate_size=64),  # type: ignore[arg-type]
    "bloom": BloomConfig(vocab_size=256, hidden_size=32, n_layer=2, n_head=4),
    "gemma3": Gemma3TextConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, head_dim=8),  # type: ignore[arg-type]
}


@pytest.fixture(params=["causal", "seq2seq", "roberta", "llama", *FAMILIES])
def family(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """-> the bank's kind and a float32 checkpoint."""
    name = request.param
    if name in folders:
        yield name, folders[name]
        return
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # norms and biases too
    model.save_pretrained(tmp_path / name)
    yield "causal", tmp_path / name


@pytest.mark.parametrize("dtype", [DType.bfloat16, DType.float16])
def test_the_losses_are_those_of_the_model_read_in_16_bits(family: tuple[str, Path], dtype: DType) -> None:
    kind, folder = family
    banks = [make_bank({kind: folder}, kind, quant(QuantMethod.none, dtype), AdapterMethod.full) for _ in range(2)]
    banks[1].master_weights = MasterWeights.compute
    for bank in banks:
        bank.add_member("a", FULL, seed=3)
        bank.eval()
    if isinstance(banks[1], ClassifierBank):  # whose fresh head is drawn in the dtype it is read in
        banks[1].model.load_state_dict(banks[0].model.state_dict())
    assert torch.equal(losses(banks[0], kind), losses(banks[1], kind))


def test_a_float32_layer_computes_and_learns_as_the_16_bit_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4, bias=False))
    exact = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4, bias=False))
    exact.load_state_dict(model.state_dict())
    hold_in_float32(model, torch.bfloat16)
    ids, weights = torch.randint(50, (2, 7)), torch.randn(2, 7, 4)
    (model(ids).float() * weights).sum().backward()
    (exact(ids) * weights).sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype is torch.float32
        assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 0.02, name
    with torch.no_grad():
        assert torch.equal(model(ids), exact.bfloat16()(ids))
    assert [type(module).__name__ for module in model] == ["_Embedding", "_Linear", "LayerNorm", "_Linear"]


def test_weights_are_put_back_when_a_module_fails() -> None:
    norm = nn.LayerNorm(8)
    hold_in_float32(norm, torch.bfloat16)
    with pytest.raises(RuntimeError):
        norm(torch.zeros(2, 3, dtype=torch.bfloat16))
    assert all(isinstance(p, nn.Parameter) and p.dtype is torch.float32 for p in norm.parameters())
    assert len(list(norm.parameters())) == 2


def test_no_16_bit_copy_of_the_layers_is_kept_for_the_backward_pass(folders: dict[str, Path]) -> None:
    bank = FullBank(folders["causal"], BF16, CPU)
    bank.add_member("a", FULL, seed=3)
    shapes = {tuple(p.shape) for p in bank.member_parameters("a").values() if p.dim() == 2}
    own = {p.untyped_storage().data_ptr() for p in bank.model.parameters()}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bank.train()
        bank.item_losses(make_items()).sum()
    copies = [t for t in kept if t.untyped_storage().data_ptr() not in own and tuple(t.shape) in shapes]
    copies += [t for t in kept if t.untyped_storage().data_ptr() not in own and tuple(t.shape[::-1]) in shapes]
    assert not copies


SHAPE = ShapeConfig(vocab_size=384, hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2)


@pytest.mark.parametrize("wanted", [MasterWeights.float32, MasterWeights.compute])
def test_the_predictor_counts_what_full_finetuning_holds(folders: dict[str, Path], wanted: MasterWeights) -> None:
    bank = FullBank(folders["causal"], BF16, CPU)
    bank.master_weights = wanted
    bank.add_member("a", FULL, seed=3)
    optimizer = torch.optim.AdamW(bank.member_parameters("a").values())
    bank.item_losses(make_items()).sum().backward()
    optimizer.step()
    settings = TrainConfig(optimizer=Optimizer.adamw, master_weights=wanted)
    found = predict(SHAPE, BF16, FULL, settings, tokens_per_microbatch=64, longest_sequence=64)
    assert found.weights_bytes == pytest.approx(sum(p.nbytes for p in bank.model.parameters()), rel=1e-3)
    assert found.gradient_bytes == sum(p.grad.nbytes for p in bank.model.parameters() if p.grad is not None)
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert found.optimizer_bytes == sum(moment.nbytes for moment in moments)
    assert found.adapter_bytes == 0


def test_a_cast_layer_is_counted_and_no_more() -> None:
    pure, held = (
        predict(SHAPE, BF16, FULL, TrainConfig(master_weights=wanted), 64, 64)
        for wanted in (MasterWeights.compute, MasterWeights.float32)
    )
    assert (pure.dequantization_bytes, held.dequantization_bytes) == (0, 2 * 32 * 64)
    assert held.activation_bytes == pure.activation_bytes
    assert held.logits_bytes - pure.logits_bytes == 2 * 384 * 32  # the output layer's


def test_a_removed_member_is_gone_without_the_garbage_collector(folders: dict[str, Path]) -> None:
    bank = FullBank(folders["causal"], BF16, CPU)
    bank.add_member("a", FULL, seed=3)
    train(bank, "causal", rate=1e-3, num_steps=1)
    weights = [weakref.ref(p) for p in bank.member_parameters("a").values()]
    gc.disable()
    try:
        bank.remove_member("a")
        assert not any(weight() is not None for weight in weights)
    finally:
        gc.enable()


def make_member(tmp: Path) -> tuple[Member, list[StepMetrics]]:
    log: list[StepMetrics] = []
    settings = TrainConfig(max_steps=4, batch_size=2, learning_rate=1e-4, max_epochs=100.0, checkpoint_steps=2)
    member = Member(
        run_id="a",
        adapter=FULL,
        train=settings,
        examples=make_examples(),
        checkpoint_folder=tmp / "checkpoint",
        on_step=log.append,
    )
    return member, log


def test_resume_is_bit_identical_with_float32_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    straight = FullBank(folders["causal"], BF16, CPU)
    train_group(straight, [make_member(tmp_path / "straight")[0]])
    stopped, log = make_member(tmp_path / "stopped")
    with pytest.raises(TrainingInterrupted):
        train_group(FullBank(folders["causal"], BF16, CPU), [stopped], should_stop=lambda: len(log) >= 3)
    resumed = FullBank(folders["causal"], BF16, CPU)
    train_group(resumed, [make_member(tmp_path / "stopped")[0]])
    for name, tensor in straight.member_parameters("a").items():
        assert torch.equal(tensor, resumed.member_parameters("a")[name]), name


def test_gradient_checkpointing_changes_no_gradient(folders: dict[str, Path]) -> None:
    found: list[list[Tensor]] = []
    for on in (False, True):
        bank = FullBank(folders["causal"], BF16, CPU)
        bank.add_member("a", FULL, seed=3)
        bank.set_checkpointing(on)
        bank.train()
        bank.item_losses(make_items()).sum().backward()
        found.append([p.grad for p in bank.member_parameters("a").values() if p.grad is not None])
    assert len(found[0]) == len(found[1]) == len(list(bank.model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_saved_model_goes_on_where_it_was_and_reads_as_it_was_scored(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    bank = FullBank(folders["causal"], BF16, CPU)
    bank.add_member("a", FULL, seed=3)
    train(bank, "causal", rate=1e-5, num_steps=3)
    bank.save_member("a", tmp_path, "tiny", "main")
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    onward = FullBank(tmp_path, BF16, CPU)
    onward.add_member("a", FULL, seed=4)
    for name, parameter in bank.member_parameters("a").items():
        assert torch.equal(parameter, onward.member_parameters("a")[name]), name
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    item = make_items()[0]
    ids = torch.from_numpy(item.tokens.astype(np.int64))[None]
    with torch.no_grad():
        logits = plain(ids).logits[0, item.num_source - 1 : -1].float()
    theirs = functional.cross_entropy(logits, ids[0, item.num_source :], reduction="none")
    torch.testing.assert_close(losses(bank)[: len(theirs)], theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ["roberta", "llama"])
def test_plain_peft_reads_a_float32_head_over_a_16_bit_base(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    bank = make_bank(folders, kind, BF16, AdapterMethod.lora)
    bank.add_member("a", config(AdapterMethod.lora), seed=3)
    train(bank, kind, rate=1e-3, num_steps=10)
    bank.save_member("a", tmp_path, "tiny", "main")
    base = AutoModelForSequenceClassification.from_pretrained(
        folders[kind], num_labels=NUM_LABELS, ignore_mismatched_sizes=True, dtype=torch.bfloat16
    )
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    with torch.no_grad():
        expected = [
            functional.cross_entropy(
                theirs(torch.from_numpy(i.tokens.astype(np.int64))[None]).logits.float(), torch.tensor([int(i.label)])
            )
            for i in make_items(kind)
            if i.label is not None
        ]
    torch.testing.assert_close(losses(bank, kind), torch.stack(expected), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("stored", [QuantMethod.none, QuantMethod.nf4, QuantMethod.int8])
def test_dora_starts_where_its_base_is(folders: dict[str, Path], stored: QuantMethod) -> None:
    """Magnitudes and norms rounded to 16 bits would scale every row by up to 1/256."""
    bank = make_bank(folders, "causal", quant(stored), AdapterMethod.dora)
    with torch.no_grad():
        untouched = bank.item_losses([replace(item, member=None) for item in make_items()])
    bank.add_member("a", config(AdapterMethod.dora), seed=3)
    assert torch.equal(losses(bank.eval()), untouched)


def test_dropout_scales_what_is_left_without_bias() -> None:
    """1 / 0.9 is 1.109 in bfloat16: rounded, it would shrink every input of the adapter alike."""
    segments = [Segment(num_tokens=40, member="a", dropout_key=1)]
    dropout = SegmentDropout(0.1, seed=0, layer=0, segments=segments)
    x = torch.rand(1, 40, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    out = dropout(x.bfloat16())
    assert out.dtype is torch.bfloat16
    exact = dropout(x.bfloat16().float())
    assert torch.equal(out, exact.bfloat16())
    assert float(out.float().sum() / exact.sum()) == pytest.approx(1, abs=3e-4)
