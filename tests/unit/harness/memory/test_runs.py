"""What a planned run's prediction is made for: the longest example that its model and its dataset allow."""

from dataclasses import replace

import pytest

from harness.config.choices import dataset_choice, model_choice, quant_choice
from harness.config.schema import AdapterConfig, AdapterMethod, Config, DType, ModelConfig, ShapeConfig, TrainConfig
from harness.memory.padded import predict_padded
from harness.memory.runs import longest_sequence, memory_key, predict_run
from harness.runs.spec import RunSpec, make_spec

LORA = AdapterConfig(name="lora", method=AdapterMethod.lora, lora_r=4, lora_dropout=0.0)
HALF = AdapterConfig(name="hft", method=AdapterMethod.hft)


def planned(model: str, dataset: str, sizes: tuple[int, int] | None = None) -> RunSpec:
    """A run of LoRA, whose dataset may have these as source_max_tokens and target_max_tokens."""
    data = dataset_choice(dataset)
    data = data if sizes is None else replace(data, source_max_tokens=sizes[0], target_max_tokens=sizes[1])
    config = Config(
        model=model_choice(model),
        dataset=data,
        quant=quant_choice("nf4"),
        adapter=LORA,
        train=TrainConfig(max_steps=1, max_microbatch_tokens=4096),
    )
    return make_spec(config, DType.bfloat16, lambda path: "")


@pytest.mark.parametrize(
    ("model", "dataset", "longest"),
    [
        ("t5_base", "longform", 512 + 1024),  # each stack takes 1,024
        ("t5_base", "super_ni", 1024 + 128),
        ("7b", "longform", 512 + 1024),
        ("roberta_large", "glue_sst2", 128),  # a classifier reads no target
        ("roberta_large", "glue_rte", 512),
    ],
)
def test_the_longest_example(model: str, dataset: str, longest: int) -> None:
    assert longest_sequence(planned(model, dataset)) == longest


def test_a_limit_is_one_of_each_stack_or_of_their_sum() -> None:
    assert longest_sequence(planned("t5_base", "longform", (4096, 100))) == 1024 + 100
    assert longest_sequence(planned("t5_base", "longform", (4096, 4096))) == 1024 + 1024
    assert longest_sequence(planned("7b", "longform", (4096, 4096))) == 2048
    assert longest_sequence(planned("roberta_large", "glue_rte", (4096, 1))) == 512


def test_a_t5_is_predicted_by_what_each_stack_reads() -> None:
    """1,024 and 128 tokens are as many as 576 and 576, and a decoder keeps more of a token than an encoder."""
    long_source, long_target = (planned("t5_base", "longform", sizes) for sizes in ((1024, 128), (576, 576)))
    assert memory_key(long_source) != memory_key(long_target)
    for spec, source in ((long_source, 1024), (long_target, 576)):
        wanted = predict_padded(spec.model, spec.quant, spec.adapter, spec.train, 4096, 1152, source)
        assert predict_run(spec) == wanted
    assert predict_run(long_source) != predict_run(long_target)


def test_halves_drawn_by_other_seeds_have_other_sizes() -> None:
    shape = ShapeConfig(vocab_size=64, hidden_size=16, intermediate_size=64, num_layers=3, num_heads=2, num_kv_heads=1)
    spec = replace(planned("7b", "alpaca"), model=ModelConfig(name="m", hub_id="a/m", shape=shape), adapter=HALF)
    spec = replace(spec, quant=quant_choice("bf16"))
    assert spec.train is not None
    seeds = [replace(spec, train=replace(spec.train, seed=seed)) for seed in range(4)]
    found = {memory_key(spec): predict_run(spec) for spec in seeds}
    assert len(found) == 4
    assert len({str(prediction) for prediction in found.values()}) > 1
    lora = [replace(spec, adapter=LORA) for spec in seeds]
    assert len({memory_key(spec) for spec in lora}) == 1
