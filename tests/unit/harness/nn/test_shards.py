"""A sharded base computes what the whole one does, and between layers a rank holds its part only."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from harness.config.schema import AdapterMethod, ModelKind, ShapeConfig
from harness.devices.ranks import ALONE, Ranks
from harness.memory.predict import weights_bytes
from harness.nn.shards import ShardedLayers, _move_into, _View, decoder_layers
from harness.runs.compatibility import shard_problem
from tests.in_memory import quantize_linear_layers
from tests.processes.rank_processes import on_ranks, values
from tests.processes.shared_steps import CPU, QUANTS, Case, Trained, assert_same_training, train
from tests.tiny import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    "quant",
    ["nf4", *(pytest.param(other, marks=pytest.mark.slow) for other in ("none", "int8"))],  # two processes each
)
def test_a_sharded_base_trains_the_same_adapters(model: Path, tmp_path: Path, quant: str) -> None:
    whole = train(ALONE, Case(model=model, folder=tmp_path / "whole", quant=quant))
    for checkpointing in (False, True):
        case = Case(
            model=model,
            folder=tmp_path / str(checkpointing),
            quant=quant,
            sharded=True,
            gradient_checkpointing=checkpointing,
        )
        ranks = values(on_ranks(2, train, case))
        assert_same_training(ranks[0], whole)
        for trained in ranks:
            assert_one_layer_at_a_time(trained, num_layers=2, num_ranks=2)


def assert_one_layer_at_a_time(trained: Trained, num_layers: int, num_ranks: int) -> None:
    """`bytes_between` are the parts; one layer more while it is in use. All layers are alike here."""
    part = trained.bytes_between // num_layers
    assert part > 0
    assert set(trained.layer_bytes) == {num_layers * part + num_ranks * part}


class OneRank(Ranks):
    """A rank alone, whose part is the whole row; it counts what it gathers."""

    num_gathers: ClassVar[int] = 0

    def gather_bytes(self, whole: torch.Tensor, part: torch.Tensor) -> None:
        type(self).num_gathers += 1
        whole.copy_(part)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_layer_is_gathered_for_each_of_its_passes(model: Path, checkpointing: bool) -> None:
    """In one process: forward and backward give the whole base's numbers, and hold one layer at a time."""
    tokens, OneRank.num_gathers = torch.arange(3, 15)[None], 0
    whole, sharded = (AutoModelForCausalLM.from_pretrained(model).requires_grad_(False) for _ in range(2))
    shards = ShardedLayers(OneRank())
    for layer in decoder_layers(sharded):
        shards.add(layer)
    held: list[int] = []
    first, second = decoder_layers(sharded)
    second.register_forward_pre_hook(lambda *_: held.append(shards.num_bytes))  # type: ignore[attr-defined]
    grads, between = [], shards.num_bytes
    for one in (whole, sharded):
        one.get_input_embeddings().requires_grad_(True)
        if checkpointing:
            one.train().activation_checkpointing_enable({"use_reentrant": False})
        one(input_ids=tokens, labels=tokens).loss.backward()
        grads.append(one.get_input_embeddings().weight.grad)
    assert torch.equal(*grads)
    assert OneRank.num_gathers == 4, "two layers forward, and backward; what is recomputed finds its layer there"
    assert shards.num_bytes == between
    assert set(held) == {between + between // 2}
    with torch.no_grad():
        assert torch.equal(sharded(input_ids=tokens).logits, whole(input_ids=tokens).logits)
    assert shards.num_bytes == between
    assert not first.self_attn.q_proj.weight.untyped_storage().nbytes()  # type: ignore[union-attr, operator]


def test_out_of_memory_on_one_rank_leaves_the_gathers_in_step(model: Path, tmp_path: Path) -> None:
    """In training and where held-out rows are measured, which has no backward pass."""
    whole = train(ALONE, Case(model=model, folder=tmp_path / "whole", measured=True))
    case = Case(model=model, folder=tmp_path / "pair", sharded=True, cramped=40, measured=True)
    ranks = values(on_ranks(2, train, case))
    assert list(whole.eval_losses["a"]) == [3, 6]
    assert any("out of memory at step" in note for note in ranks[0].notes["a"])
    assert_same_training(ranks[0], whole)


def test_a_rank_is_asked_to_stop_and_all_do(model: Path, tmp_path: Path) -> None:
    ranks = values(on_ranks(2, train, Case(model=model, folder=tmp_path, sharded=True, stop_after=3)))
    assert [trained.interrupted for trained in ranks] == [True, True]


def test_what_is_not_sharded_says_so(model: Path) -> None:
    assert len(decoder_layers(AutoModelForCausalLM.from_pretrained(model))) == 2
    with pytest.raises(ValueError, match="Linear has no decoder layers that can be sharded"):
        decoder_layers(torch.nn.Linear(1, 1))
    assert shard_problem(ModelKind.causal, AdapterMethod.rslora) is None
    for kind, method in ((ModelKind.causal, AdapterMethod.full), (ModelKind.seq2seq, AdapterMethod.lora)):
        problem = shard_problem(kind, method)
        assert problem is not None
        assert f"model.kind={kind.value}, adapter.method={method.value}" in problem


@pytest.mark.parametrize("quant", ["none", "nf4", "int8"])
def test_the_predictor_knows_what_a_rank_holds(quant: str) -> None:
    """Of layers large enough for their padding not to count: parts of all, one whole, the tables."""
    shape = ShapeConfig(
        vocab_size=300, hidden_size=512, intermediate_size=1408, num_layers=3, num_heads=4, num_kv_heads=2
    )
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
    )
    model = LlamaForCausalLM(config)
    shards = ShardedLayers(Ranks(rank=1, size=4))  # a part is cut off without the others
    quantize_linear_layers(model, QUANTS[quant], CPU, shards)
    tables = sum(p.nbytes for p in model.parameters() if p.untyped_storage().nbytes())
    one_layer = 4 * shards.shards[0].part_bytes
    assert shards.num_bytes + one_layer + tables == pytest.approx(weights_bytes(shape, QUANTS[quant], 4), rel=0.01)


def test_a_view_is_of_its_tensors_own_device() -> None:
    """The meta device stands for a GPU."""
    tensor, row = torch.ones(3, 5, device="meta"), torch.zeros(512, dtype=torch.uint8, device="meta")
    _move_into(_View(tensor, offset=256), row)
    assert (tensor.device.type, tensor.storage_offset(), tensor.shape) == ("meta", 64, (3, 5))
