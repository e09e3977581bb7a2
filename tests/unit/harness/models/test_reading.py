"""Reading tensor by tensor: the same model, bit for bit, as whole and then quantized, with one tensor in memory."""

import gc
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    PretrainedConfig,
    T5Config,
)

from harness.banks import load
from harness.banks.load import load_base, make_bank, read_base
from harness.config.schema import AdapterMethod, DType, ModelKind, QuantConfig, QuantMethod
from harness.devices.ranks import Ranks
from harness.models.locate import ModelSource
from harness.models.reading import OnTheWay, read_config, read_model
from harness.nn.quant import TORCH_DTYPES, linear_layers, quantize_linear
from harness.nn.shards import ShardedLayers
from tests.builders import FAMILIES, SIZES
from tests.in_memory import quantize_linear_layers
from tests.tiny import make_checkpoint, tiny_config

CPU = torch.device("cpu")
CONFIGS: dict[str, PretrainedConfig] = {
    **FAMILIES,
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "experts": MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2),  # fused from two tensors an expert
}
WEIGHTS = "model.safetensors"


def quant(method: str, dtype: DType = DType.bfloat16) -> QuantConfig:
    return QuantConfig(name=method, method=QuantMethod(method), block_size=128, compute_dtype=dtype)


def write(config: PretrainedConfig, folder: Path) -> Path:
    """A float16 checkpoint, so that every tensor is cast."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(deepcopy(config)).to(torch.float16).save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write(tiny_config(), tmp_path / "llama")


def read(folder: Path, method: str = "nf4", **more: Any) -> Any:
    return read_base(folder, read_config(folder), quant(method), CPU, more.get("shards"))


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def assert_same_model(found: nn.Module, expected: nn.Module) -> None:
    """Modules, tensors with their quantization state, buffers that are not saved, flags."""
    kinds = [[(name, type(module)) for name, module in model.named_modules()] for model in (found, expected)]
    assert kinds[0] == kinds[1]
    for tensors in ("state_dict", "named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(model, tensors)()) for model in (found, expected))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype is theirs[name].dtype, name
            assert tensor.requires_grad == theirs[name].requires_grad, name
            assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("method", ["nf4", "int8", "none"])
@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_the_model_that_was_read_whole(family: str, method: str, tmp_path: Path) -> None:
    folder = write(CONFIGS[family], tmp_path)
    for dtype in (DType.bfloat16, DType.float32):
        how = quant(method, dtype)
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=TORCH_DTYPES[dtype])
        quantize_linear_layers(expected, how, CPU)
        found: Any = read_base(folder, read_config(folder), how, CPU, None)
        assert_same_model(found, expected)
        assert found.config.to_dict() == expected.config.to_dict()
        assert found.generation_config.to_dict() == expected.generation_config.to_dict()
        assert vars(found).keys() == vars(expected).keys()


def placing() -> OnTheWay:
    """Reads as for another device: parameter by parameter, none of them changed."""
    return OnTheWay(names=lambda model: [], place=lambda name, linear: linear)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_transformers_keeps_in_float32_stays(dtype: torch.dtype, tmp_path: Path) -> None:
    """T5's `wo`, in float16; the tables of encoder and decoder are one tensor."""
    config = T5Config(vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    expected = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=dtype)
    found = read_model(AutoModelForSeq2SeqLM, tmp_path, read_config(tmp_path), dtype, CPU, on_the_way=placing())
    assert_same_model(found, expected)
    assert found.decoder.block[0].layer[2].DenseReluDense.wo.weight.dtype is (
        torch.float32 if dtype is torch.float16 else dtype
    )


def test_a_fresh_head_is_drawn_as_from_pretrained_draws_it(llama: Path) -> None:
    config, drawn = read_config(llama, num_labels=3), []
    for orders in (None, placing()):
        torch.manual_seed(5)
        read_it = read_model(
            *(AutoModelForSequenceClassification, llama, config, torch.float32, CPU),
            on_the_way=orders,
            fresh=("score",),
        )
        drawn.append(read_it.score.weight)
    torch.manual_seed(5)
    expected = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=3, dtype=torch.float32)
    assert torch.equal(drawn[0], expected.score.weight)
    assert torch.equal(drawn[1], expected.score.weight)


def test_a_head_of_another_size_gives_way_to_a_fresh_one(llama: Path, tmp_path: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(llama, num_labels=2).save_pretrained(tmp_path / "two")
    arguments: Any = (AutoModelForSequenceClassification, tmp_path / "two", read_config(tmp_path / "two", num_labels=3))
    model = read_model(*arguments, torch.float32, CPU, on_the_way=placing(), fresh=("score",))
    assert list(model.score.weight.shape) == [3, 32]
    with pytest.raises(ValueError, match=r"score.weight has shape \[2, 32\], by config.json it is \[3, 32\]"):
        read_model(*arguments, torch.float32, CPU)


def test_output_layer_embeddings_and_norms_stay(llama: Path) -> None:
    model = read(llama)
    kinds = {name.rpartition(".")[2]: type(module) for name, module in model.named_modules()}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        assert kinds[name] is bnb.nn.Linear4bit
    assert kinds["lm_head"] is nn.Linear
    stored = load_file(llama / WEIGHTS)
    kept = {name: p for name, p in model.named_parameters() if "_proj" not in name}
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= set(kept)
    assert all(torch.equal(p, stored[name].to(torch.bfloat16)) for name, p in kept.items())


@pytest.mark.parametrize("form", ["bin", "shards", "no prefix"])
def test_other_forms_of_a_checkpoint(form: str, llama: Path) -> None:
    expected = read(llama)
    tensors = load_file(llama / WEIGHTS)
    (llama / WEIGHTS).unlink()
    if form == "bin":
        torch.save(tensors, llama / "pytorch_model.bin")
    elif form == "shards":
        LlamaForCausalLM.from_pretrained(None, config=tiny_config(), state_dict=tensors, dtype=torch.float16)
        names = sorted(tensors)
        parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}  # layers across files
        for file, held in parts.items():
            save_file({name: tensors[name] for name in held}, llama / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
        (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    else:  # saved from the model without its output layer, the output layer added
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        save_file(tensors, llama / WEIGHTS, metadata={"format": "pt"})
    assert_same_model(read(llama), expected)


def wide_llama(folder: Path, num_layers: int) -> Path:
    config = LlamaConfig(
        vocab_size=64, hidden_size=256, intermediate_size=512, num_hidden_layers=num_layers, num_attention_heads=4
    )
    return write(config, folder)


def num_unquantized() -> int:
    """Linear layers' weights in floating point that anything in this process holds, waiting threads included."""
    shapes = {(256, 256), (512, 256), (256, 512)}
    held = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and tuple(t.shape) in shapes and not t.is_meta]
    return len({t.data_ptr() for t in held if t.is_floating_point()})


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_one_unquantized_layer_is_held_at_a_time(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, held = wide_llama(tmp_path, 2), []

    def spy(linear: nn.Module, config: QuantConfig, device: torch.device) -> nn.Module:
        held.append(num_unquantized())
        return quantize_linear(linear, config, device)

    monkeypatch.setattr(load, "quantize_linear", spy)
    before = num_unquantized()
    model = read(folder, method)
    assert [count - before for count in held] == [1] * 7 * 2
    assert num_unquantized() == before
    del model
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert num_unquantized() - before == 7 * 2, "and they are counted"
    del whole


def test_layers_are_sharded_as_soon_as_they_are_whole(tmp_path: Path) -> None:
    folder = wide_llama(tmp_path, 4)
    alone = Ranks(rank=0, size=2)  # a part is cut off without the other
    for method in ("nf4", "none"):
        shards, seen = ShardedLayers(alone), []

        def place(name: str, linear: nn.Linear, shards: ShardedLayers = shards, seen: list[int] = seen) -> nn.Module:
            seen.append(int(name.split(".")[2]) - len(shards.shards))
            return linear

        config = read_config(folder)
        orders = OnTheWay(names=lambda m: [n for n, _ in linear_layers(m)], place=place, shards=shards)
        read_model(AutoModelForCausalLM, folder, config, torch.bfloat16, CPU, on_the_way=orders)
        assert seen == [0] * 7 * 4, "when a layer's weights come, all layers before it are sharded"
        expected_shards, found_shards = ShardedLayers(alone), ShardedLayers(alone)
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        quantize_linear_layers(expected, quant(method), CPU, expected_shards)
        read(folder, method, shards=found_shards)
        for found, wanted in zip(found_shards.shards, expected_shards.shards, strict=True):
            assert found.part_bytes == wanted.part_bytes
            assert torch.equal(found.part, wanted.part)


def test_a_weight_that_is_not_there_is_refused_by_name(llama: Path) -> None:
    change(llama, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    for method in ("nf4", "none"):
        with pytest.raises(ValueError, match=r"lacks model.layers.1.mlp.up_proj.weight, which LlamaForCausalLM needs"):
            read(llama, method)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_weight_of_another_shape_is_refused_by_name(name: str, llama: Path) -> None:
    change(llama, lambda tensors: tensors.update({name: torch.ones(3, 5)}))
    for method in ("nf4", "none"):
        with pytest.raises(ValueError, match=rf"{name} has shape \[3, 5\], by config.json it is"):
            read(llama, method)


def test_a_tensor_without_a_use_is_named(llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    harmless = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    change(llama, lambda tensors: tensors.update(harmless))
    with caplog.at_level(logging.WARNING, logger="harness"):
        read(llama)
        assert not caplog.messages, "transformers knows that old checkpoints have these"
        change(llama, lambda tensors: tensors.update({"model.layers.7.mlp.up_proj.weight": torch.ones(1)}))
        read(llama)
    assert "LlamaForCausalLM has no use for model.layers.7.mlp.up_proj.weight" in caplog.text


def test_an_error_in_a_layer_is_not_replaced(llama: Path) -> None:
    """Running out of device memory has to be known for what it is."""
    calls = []

    def place(name: str, linear: nn.Linear) -> nn.Module:
        calls.append(name)
        raise torch.OutOfMemoryError("no room")

    orders = OnTheWay(names=lambda model: [n for n, _ in linear_layers(model)], place=place)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        read_model(AutoModelForCausalLM, llama, read_config(llama), torch.float32, CPU, on_the_way=orders)
    assert len(calls) == 1


def test_a_quantized_checkpoint_is_refused(llama: Path, tmp_path: Path) -> None:
    stored = BitsAndBytesConfig(load_in_4bit=True)
    AutoModelForCausalLM.from_pretrained(llama, quantization_config=stored).save_pretrained(tmp_path / "quantized")
    with pytest.raises(ValueError, match=r"quantized already \(quantization_config in config.json: bitsandbytes\)"):
        read(tmp_path / "quantized")


def test_config_and_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_checkpoint(tmp_path / "model")
    with counted(monkeypatch, AutoConfig) as calls:
        source = ModelSource(kind="folder", location=str(folder), revision="main", max_length=64)
        base = load_base(source, quant("nf4"), CPU, tmp_path / "cache")
    assert len(calls) == 1
    assert base.max_length == 64


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, owner: Any) -> Iterator[list[object]]:
    calls: list[object] = []
    real = owner.from_pretrained

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, "from_pretrained", spy)
        yield calls


def test_what_a_bank_makes_of_it_is_as_before(llama: Path) -> None:
    bank = make_bank(llama, ModelKind.causal, AdapterMethod.lora, quant("nf4"), CPU)
    layer = bank.layers["model.layers.0.mlp.up_proj"].base
    stored = load_file(llama / WEIGHTS)["model.layers.0.mlp.up_proj.weight"].to(torch.bfloat16)
    linear = nn.Linear(32, 64, bias=False)
    linear.weight.data = stored
    expected = quantize_linear(linear, quant("nf4"), CPU)
    assert torch.equal(layer.weight, expected.weight)  # type: ignore[arg-type]
