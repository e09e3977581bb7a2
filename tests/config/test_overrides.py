"""What a command line may say, and what is said back: all mistakes at once, each with its key, value and remedy."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks.mmlu.settings import Protocol
from eval.benchmarks.registry import eval_config
from harness.config.choices import near
from harness.config.compose import ConfigError, compose_grid
from harness.config.overrides import check_command_line, first_cause


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "model=llama7b,13b", "dataset=oasst1,flan"],
        ["-m", "+experiment=demo"],
        ["--cfg", "job", "model=7b"],
        ["-m", "model=glob(llama*)", "train.seed=range(0,3)", "quant=choice(nf4,none)"],
        ["train.learning_rate=2e-4", "train.max_steps=null", "adapter.targets=[q_proj,v_proj]"],
        ["train.learning_rate=${train.adam_epsilon}"],
        ["quant.method=nf4", "quant.double_quant=false", "launch.device=cpu", "hydra.verbose=true"],
        ["-m", "grid=[{model:smollm2,quant:'nf4,none'}]", "sweep_name=mine"],
        ["-m", "model=local", "model.path=a,b", "dataset.path=a,b", "model.recipe_size=7b,13b"],
        ["~dataset.recipe.default", "dataset.path=my rows.jsonl"],
    ],
)
def test_good_command_lines(arguments: list[str]) -> None:
    assert check_command_line(arguments) == []


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("model=lama7b", "model=lama7b: no such model. Did you mean llama7b"),
        ("dataset=oast1", "dataset=oast1: no such dataset. Did you mean oasst1?"),
        ("quant=qqqqq", "quant=qqqqq: no such quant. Known: bf16, fp32, fp4, int8, nf4, nf4_single, none"),
        ("+experiment=dmo", "experiment=dmo: no such experiment. Did you mean demo?"),
        ("trian.seed=1", "trian.seed: no such key. Did you mean train"),
        ("train.max_step=1", "train.max_step: no such key in train. Did you mean max_steps"),
        ("+train.foo=1", "train.foo: no such key in train. Known: max_steps, "),
        ("model.shape.hiden_size=1", "model.shape.hiden_size: no such key in model.shape. Did you mean hidden_size"),
        ("adapter.lora_r=abc", "adapter.lora_r=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("adapter.lora_r=1.5", "adapter.lora_r=1.5: Value '1.5' of type 'float' could not be converted to Integer"),
        ("train.max_steps=", "train.max_steps=: Value '' of type 'str' could not be converted to Integer"),
        ("train.learning_rate=fast", "train.learning_rate=fast: Value 'fast' of type 'str' could not be converted"),
        ("quant.double_quant=perhaps", "quant.double_quant=perhaps: Value 'perhaps' is not a valid bool"),
        ("quant.method=nf5", "quant.method=nf5: Invalid value 'nf5', expected one of [nf4, fp4, int8, none]"),
        ("a=", "a: no such key. Known: model, dataset"),
        ("model", "model: not an override of the form key=value"),
        ("train.seed=interval(0,3)", "train.seed=interval(0,3): a grid needs single values"),
        ("train.seed=???", "train.seed=???: ??? stands for a value that is still to be given"),
        ("~train.seed", "~train.seed: a key can't be taken away; leave it out to keep its default"),
        ("~train.max_steps", "~train.max_steps: a key can't be taken away; write train.max_steps=null"),
        ("~eval.mmlu.limit_per_subject", "~eval.mmlu.limit_per_subject: a key can't be taken away; write eval.mmlu."),
        ("~model", "~model: a group always has a choice; write model=..."),
        ("train.seed=range(3,3)", "train.seed=range(3,3): the range is empty; its end is left out"),
        ("model=glob(zzz*)", "model=glob(zzz*): matches no model. Known: 13b"),
        (
            "train.seed=glob(*)",
            "train.seed=glob(*): glob(...) looks through the choices of a group; train.seed is none",
        ),
        ("model=choice()", "model=choice(): choice() needs at least one value"),
        ("model=smollm2,", "model=smollm2,: a value is empty between commas"),
        (
            "dataset.path=a=b.jsonl",
            "dataset.path=a=b.jsonl: the value has characters that must be quoted; write 'dataset",
        ),
        (
            "dataset.path=a#b.jsonl",
            """dataset.path=a#b.jsonl: the value has characters that must be quoted; write \
'dataset.path="a#b.jsonl"'""",
        ),
        (
            "dataset.path=数据.jsonl",
            "dataset.path=数据.jsonl: the value has characters that must be quoted; write 'dataset",
        ),
        ("train.data_seed=${train.seed", "train.data_seed=${train.seed: an interpolation ${...} is not closed"),
        ("train.seed = 1", "train.seed = 1: no spaces around the =; write train.seed=1"),
        ("=5", "=5: there is no key before the =; expected key=value"),
        ("", "an empty argument: expected key=value"),
        ("launch.workers=1,2", "launch.workers=1,2: can't vary within a sweep: all runs of a sweep are started by one"),
        ("launch=local,slurm", "launch=local,slurm: can't vary within a sweep"),
        (
            "train.checkpoint_steps=10,20",
            "train.checkpoint_steps=10,20: can't vary within a sweep: all values would be one",
        ),
        ("model.name=a,b", "model.name=a,b: can't vary within a sweep: all values would be one run"),
        ("paths.runs=a,b", "paths.runs=a,b: can't vary within a sweep: a sweep lies in one folder of runs"),
        ("tracking.wandb_mode=offline,disabled", "tracking.wandb_mode=offline,disabled: can't vary within a sweep"),
        ("sweep_name=choice(a,b)", "sweep_name=choice(a,b): can't vary within a sweep: a sweep has one name"),
    ],
)
def test_bad_value_names_key_value_and_remedy(argument: str, expected: str) -> None:
    (problem,) = check_command_line(["-m", argument], eval_config())
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eval.mmlu_num_shots", "eval.mmlu.num_shots"),
        ("eval.mmlu_shots_file", "eval.mmlu.shots_file"),
        ("eval.perplexity_text", "eval.perplexity.text"),
        ("eval.tasks_names", "eval.tasks.names"),
        ("eval.answers_max_new_tokens", "eval.answers.max_new_tokens"),
        ("eval.glue_limit", "eval.glue.limit"),
        ("eval.super_ni_limit_per_task", "eval.super_ni.limit_per_task"),
    ],
)
def test_a_flat_key_is_refused_by_its_nested_name(old: str, new: str) -> None:
    for argument in (f"{old}=1", f"+{old}=1"):
        assert check_command_line([argument], eval_config()) == [f"{old}: this key is {new} now"]


def test_a_flat_key_in_a_grid_is_refused_by_its_nested_name() -> None:
    with pytest.raises(ConfigError, match=r"^eval\.mmlu_num_shots: this key is eval\.mmlu\.num_shots now"):
        compose_grid(["grid=[{eval.mmlu_num_shots:'1,2'}]"], eval_config())


def test_settings_of_benchmarks_are_checked() -> None:
    (point,) = compose_grid(["eval.mmlu.protocol=hendrycks", "eval.tasks.names=[piqa]"], eval_config())
    settings: Any = point.config.eval
    assert settings.mmlu.protocol is Protocol.hendrycks
    assert settings.tasks.names == ["piqa"]
    for argument, problem in (
        ("eval.mmlu.num_shots=-1", r"eval\.mmlu\.num_shots=-1: expected 0 or more"),
        ("eval.tasks.names=[]", r"eval\.tasks\.names=\[\]: name at least one"),
        ("eval.perplexity.only=x", r"eval\.perplexity\.only='x': expected key=value"),
    ):
        with pytest.raises(ConfigError, match=f"^{problem}"):
            compose_grid([argument], eval_config())


def test_all_mistakes_are_told_at_once() -> None:
    problems = check_command_line(
        ["-m", "model=lama7b,llama13b,13", "dataset=oast1", "train.sead=2", "quant.block_size=x"]
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "model=lama7b",
        "model=13",
        "dataset=oast1",
        "train.sead",
        "quant.block_size=x",
    ]


def test_each_value_of_a_sweep_is_checked() -> None:
    (problem,) = check_command_line(["-m", "train.max_steps=1,two,3"])
    assert problem.startswith("train.max_steps=two: ")


def test_several_values_need_a_grid() -> None:
    (problem,) = check_command_line(["train.seed=0,1"])
    assert problem == "train.seed=0,1: several values are a grid: add -m; one value that is a list is [a,b]"


@pytest.mark.parametrize(
    ("text", "one_value"),
    [
        ("model.path=/a,b/c", """'model.path="/a,b/c"'"""),
        ("paths.runs=/a,b", """'paths.runs="/a,b"'"""),
        ("+launch.slurm.extra.exclude=n1,n2", """'+launch.slurm.extra.exclude="n1,n2"'"""),
        ("train.seed=0,1", None),
        ("model=7b,13b", None),
        ("adapter.targets=[q_proj],[v_proj]", None),
        ("launch.workers=1,2", None),
    ],
)
def test_a_text_with_a_comma_is_told_how_to_be_quoted(text: str, one_value: str | None) -> None:
    (problem,) = check_command_line([text])
    assert (f" with a comma in it is quoted: {one_value}" in problem) is (one_value is not None)
    assert ("quoted" in problem) is (one_value is not None)
    if one_value is not None:
        assert check_command_line(shlex.split(one_value)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train.seed=range(0,100001)",
            "train.seed=range(0,100001): 100,001 values: a sweep has at most 100,000 points",
        ),
        ("train.seed=range(10000000,0,-2)", "train.seed=range(10000000,0,-2): 5,000,000 values: a sweep has at most"),
        ("train.learning_rate=range(0.0,1.0,1e-9)", "train.learning_rate=range(0.0,1.0,1e-9): 1,000,000,000 values: "),
        ("train.seed=range(0,3,0)", "train.seed=range(0,3,0): the step of a range can't be 0"),
        (
            "train.seed=range(3,0)",
            "train.seed=range(3,0): the range is empty; its end is left out: range(0,3) is 0, 1, 2",
        ),
    ],
)
def test_ranges_without_end_and_empty_ones_are_refused_at_once(text: str, message: str) -> None:
    (problem,) = check_command_line(["-m", text])
    assert problem.startswith(message)
    assert check_command_line(["-m", "train.seed=range(3,0,-1)", "train.data_seed=range(0,100000,20)"]) == []


@pytest.mark.parametrize("value", ["~/my-runs", '"~/my-runs"', "'~/my-runs'"])
def test_a_home_that_no_shell_expands_is_no_folder_called_so(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (problem,) = check_command_line([f"paths.runs={value}"])
    assert problem.endswith("~ is not read as your home here; write paths.runs=/home/me/my-runs")


def test_choices_within_choices_are_refused() -> None:
    (problem,) = check_command_line(["-m", "train.seed=choice(1,choice(2,3))"])
    assert problem.endswith("several values within several values; write them in one list: choice(1,2,3)")


def test_near_names_come_first_else_all() -> None:
    assert near("flam", ["flan", "alpaca"]) == " Did you mean flan?"
    assert near("xyz", ["flan", "alpaca"]) == " Known: flan, alpaca"


def test_first_cause_leaves_the_dump_out() -> None:
    error = ValueError("Key 'foo' not in 'TrainConfig'\n    full_key: train.foo\n    object_type=TrainConfig")
    assert first_cause(error) == "train.foo: Key 'foo' not in 'TrainConfig'"
    assert first_cause(ValueError("quant.block_size=63: no")) == "quant.block_size=63: no"
    assert first_cause(KeyError()) == "KeyError"


def test_sbatch_and_ray_take_options_that_this_project_does_not_know() -> None:
    slurm = ("launch=slurm", "+launch.slurm.extra.gres=gpu:a100:1", "launch.slurm.setup=[module load cuda]")
    (point,) = compose_grid(["model=smollm2", *slurm])
    assert point.config.launch.slurm.extra == {"gres": "gpu:a100:1"}
    assert point.config.launch.slurm.setup == ["module load cuda"]
    (point,) = compose_grid(["model=smollm2", "launch=ray", "+launch.ray.runtime_env.working_dir=."])
    assert point.config.launch.ray.runtime_env == {"working_dir": "."}
    with pytest.raises(ConfigError, match=r"\+launch\.slurm\.extra\.gres=gpu:1"):
        compose_grid(["launch=slurm", "launch.slurm.extra.gres=gpu:1"])


def test_a_path_with_a_comma_is_no_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows,clean.jsonl").write_text("{}")
    text = f"dataset.path={tmp_path}/rows,clean.jsonl"
    quoted = f"one path with a comma in it is quoted: 'dataset.path=\"{tmp_path}/rows,clean.jsonl\"'"
    for arguments in ([text], ["-m", text]):
        (problem,) = check_command_line(arguments)
        assert quoted in problem
    (tmp_path / "rows").write_text("{}")
    (tmp_path / "clean.jsonl").write_text("{}")
    assert check_command_line(["-m", "dataset.path=rows,clean.jsonl"]) == []
