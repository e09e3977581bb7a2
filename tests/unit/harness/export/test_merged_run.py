"""Runs merged from runs: equal to PEFT's add_weighted_adapter, scored like any run, and refused by name."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from eval.systems import Target, each_base
from harness.config.schema import (
    AdapterMethod,
    DatasetConfig,
    DType,
    QuantConfig,
)
from harness.export.__main__ import main
from harness.export.adapter import export
from harness.export.checks import ExportRefusedError
from harness.export.merged_run import MergeRequest, layer_seed, merge_runs, merged_tensors
from harness.nn.batch import Segment
from harness.runs.merged import MergeMethod, MergeParent, MergeRecipe
from harness.runs.record import load_record
from harness.runs.spec import RunSpec
from tests.records.lora_runs import write_lora_run
from tests.tiny import make_checkpoint

TOKENS = torch.tensor([[1, 17, 42, 99, 7, 250, 3]])
WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("base"))


@pytest.fixture
def make_run(tmp_path: Path, checkpoint: Path) -> Callable[..., Path]:
    return partial(write_lora_run, tmp_path / "runs", checkpoint)


def opened_by_peft(checkpoint: Path, runs: list[Path]) -> PeftModel:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(checkpoint), runs[0] / "adapter", "p0")
    for number, run in enumerate(runs[1:], start=1):
        model.load_adapter(run / "adapter", f"p{number}")
    return model


def merged_by_peft(model: PeftModel, method: MergeMethod, density: float | None, seed: int) -> dict[str, torch.Tensor]:
    """PEFT's own result; its per-layer function after a seed of the layer where it draws."""
    names, draws = list(model.peft_config), method.drops_by_chance
    without = {"dare_linear": "linear", "dare_ties": "ties", "dare_linear_svd": "svd", "dare_ties_svd": "ties_svd"}
    model.base_model.add_weighted_adapter(
        names, list(WEIGHTS), "merged", without.get(method.value, method.value), density=density
    )
    for name, layer in model.base_model.model.named_modules():
        if draws and isinstance(layer, LoraLayer):
            torch.manual_seed(layer_seed(seed, name))
            set_by_peft(model, layer, names, method.value, density)
    return get_peft_model_state_dict(model, adapter_name="merged", save_embedding_layers=False)


def set_by_peft(model: PeftModel, layer: Any, names: list[str], method: str, density: float | None) -> None:
    a, b = layer.lora_A["merged"].weight, layer.lora_B["merged"].weight
    if method.endswith("svd"):
        made = model.base_model._svd_generalized_task_arithmetic_weighted_adapter(
            method, names, list(WEIGHTS), len(a), layer, a, b, density, "total"
        )
    else:
        made = model.base_model._generalized_task_arithmetic_weighted_adapter(
            method, names, list(WEIGHTS), layer, density, "total"
        )
    a.data, b.data = made


def products(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key: tensors[key.replace("lora_A", "lora_B")] @ tensor for key, tensor in tensors.items() if "lora_A" in key
    }


@pytest.mark.parametrize("method", MergeMethod)
def test_every_method_is_equal_to_pefts(
    make_run: Callable[..., Path], checkpoint: Path, tmp_path: Path, method: MergeMethod
) -> None:
    runs = [make_run(0), make_run(1)]
    density = 0.4 if method.prunes else None
    request = MergeRequest(
        method=method, weights=WEIGHTS, density=density, seed=5 if method.drops_by_chance else None, name="both"
    )
    made = merge_runs(runs, request, tmp_path / "runs")
    ours = load_file(tmp_path / "runs" / made.run_id / "adapter" / "adapter_model.safetensors")
    theirs = merged_by_peft(opened_by_peft(checkpoint, runs), method, density, seed=5)
    if not method.of_products:  # singular vectors have no sign of their own
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(products(ours), products(theirs), rtol=1e-5, atol=2e-6)
    zeros = sum(int((tensor == 0).sum()) for tensor in ours.values())
    assert (zeros > 0) == (method.prunes and not method.of_products)


def test_a_merged_run_is_scored_as_a_run(make_run: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> None:
    """Of two ranks and other layers, as one and the other beside each other: the exact sum of their changes."""
    runs = [make_run(0, rank=2), make_run(1, targets=("v_proj", "down_proj"), rank=3)]
    made = merge_runs(runs, MergeRequest(method=MergeMethod.cat, weights=WEIGHTS, name="both"), tmp_path / "runs")
    model = opened_by_peft(checkpoint, runs)
    for layer in model.modules():
        for name in set(layer.scaling) if isinstance(layer, LoraLayer) else ():
            layer.set_scale(name, WEIGHTS[int(name[1])])
    model.base_model.set_adapter(["p0", "p1"])
    wanted = model(input_ids=TOKENS).logits[0]
    target = Target(model=None, adapters=(), quant=None, run_ids=(made.run_id,), sweep=None, runs=tmp_path / "runs")
    ((base, members),) = each_base(target)
    assert members == {"both": made.run_id}
    with torch.no_grad():
        hidden = base.bank(TOKENS, [Segment(num_tokens=TOKENS.shape[1], member=made.run_id)])
        torch.testing.assert_close(base.bank.logits(hidden[0]), wanted, rtol=1e-4, atol=1e-4)


def test_the_record_says_from_what_and_how(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [make_run(0), make_run(1)]
    request = MergeRequest(method=MergeMethod.dare_linear, density=0.5)
    made = merge_runs(runs, request, tmp_path / "runs")
    stored = load_record(tmp_path / "runs" / made.run_id)
    assert stored is not None
    spec = RunSpec.from_dict(stored.spec)
    assert (spec.run_id, spec.dataset, spec.label) == (made.run_id, None, "tiny-dare_linear-fp32")
    digests = [load_record(run).adapter_sha256 for run in runs]  # type: ignore[union-attr]
    assert spec.merged == MergeRecipe(
        method=MergeMethod.dare_linear,
        parents=[
            MergeParent(run_id=run.name, adapter_sha256=str(digest), weight=0.5)
            for run, digest in zip(runs, digests, strict=True)
        ],
        rank=4,
        density=0.5,
        seed=0,
    )
    ids = " and ".join(f"s{number} ({run.name}) x 0.5" for number, run in enumerate(runs))
    assert stored.notes == (f"merged by dare_linear from {ids}, density 0.5, seed 0",)
    assert merge_runs(runs, request, tmp_path / "runs") == made
    with pytest.raises(ExportRefusedError, match="is there already, under the name tiny-dare_linear-fp32"):
        merge_runs(runs, dataclasses.replace(request, name="other"), tmp_path / "runs")
    others = [dataclasses.replace(request, seed=1), dataclasses.replace(request, weights=(0.4, 0.6))]
    assert len({merge_runs(runs, other, tmp_path / "runs").run_id for other in others} | {made.run_id}) == 3
    export(tmp_path / "runs" / made.run_id, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| run {runs[1].name} | weight 0.5, sha256 of its adapter `{digests[1]}` |" in card


def test_dropping_and_rescaling_keeps_the_mean() -> None:
    """One run alone: a share of the values is left, divided by it; over many seeds their mean is the original."""
    from harness.export.combine import Factors

    a, b = torch.randn(2, 40), torch.randn(30, 2)
    means = []
    for seed in range(200):
        recipe = MergeRecipe(
            method=MergeMethod.dare_linear,
            parents=[MergeParent(run_id="x", adapter_sha256="y", weight=1.0)],
            rank=2,
            density=0.25,
            seed=seed,
        )
        tensors = merged_tensors([{"layer.0": Factors(a_rI=a, b_Or=b, scale=1.0)}], recipe)
        kept = tensors["base_model.model.layer.0.lora_A.weight"]
        torch.testing.assert_close(kept[kept != 0], 4 * a[kept != 0])
        means.append(kept)
    share = torch.stack([kept != 0 for kept in means]).float().mean()
    assert share == pytest.approx(0.25, abs=0.01)
    assert ((torch.stack(means).mean(dim=0) - a).abs() < 0.6 * a.abs() + 1e-6).all()


@pytest.mark.parametrize(
    ("second", "request_", "message"),
    [
        ({"rank": 8}, {}, r"--method ties adds factors of equal ranks, and theirs are 4 and 8; take --method ties_svd"),
        ({"rank": 8}, {"method": MergeMethod.linear, "density": None}, "take --method svd, which adds"),
        (
            {"base_fingerprint": "0" * 64},
            {},
            r"\(s0\) and \w+ \(s1\): not of one base.* its weights \w+ and 000000000000",
        ),
        ({"quant": QuantConfig(name="nf4", compute_dtype=DType.float32)}, {}, "not of one base.* quantization"),
        ({"adapter": {"method": AdapterMethod.dora}}, {}, r"adapter.method=dora trains use_dora"),
        ({"adapter": {"method": AdapterMethod.none}}, {}, "untouched base"),
        ({"adapter": {"method": AdapterMethod.qst}}, {}, "side network beside its base"),
        ({"seed": 0}, {}, "given twice; name it once"),
        ({}, {"density": None}, "--method ties: say which share of the values is kept, as --density 0.5"),
        ({}, {"seed": 3}, "--seed with --method ties: it has no use for it"),
        ({}, {"method": MergeMethod.svd}, "--density with --method svd"),
        ({}, {"rank": 3}, "--rank with --method ties"),
        ({}, {"weights": (1.0,)}, "--weights: 1 for 2 runs"),
        ({}, {"weights": (0.0, 0.0)}, "nothing is left of the runs' changes"),
        ({}, {"name": "a/b"}, "--name 'a/b': not the name of a file"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    make_run: Callable[..., Path], tmp_path: Path, second: dict[str, Any], request_: dict[str, Any], message: str
) -> None:
    first = make_run(0)
    other = first if second == {"seed": 0} else make_run(1, **second)
    if second.get("adapter", {}).get("method") is AdapterMethod.dora:
        config = other / "adapter" / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))
    runs = tmp_path / "merged"
    options: dict[str, Any] = {"method": MergeMethod.ties, "density": 0.5} | request_
    with pytest.raises(ValueError, match=message):
        merge_runs([first, other], MergeRequest(**options), runs)
    assert not runs.exists()


def test_a_template_of_the_parents_own_is_kept(make_run: Callable[..., Path], tmp_path: Path) -> None:
    dataset = DatasetConfig(name="chats", hub_id="lab/chats", format="sharegpt", chat_template="{{ messages }}")
    runs = [make_run(0, dataset=dataset), make_run(1, dataset=dataset)]
    made = merge_runs(runs, MergeRequest(method=MergeMethod.linear), tmp_path / "runs")
    assert RunSpec.from_dict(made.spec).own_template == "{{ messages }}"
    with pytest.raises(ExportRefusedError, match="chat template"):
        merge_runs([runs[0], make_run(2)], MergeRequest(method=MergeMethod.linear), tmp_path / "runs")


def test_the_command_merges(make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [make_run(seed).name for seed in (0, 1)]
    options = ["--method", "dare", "--density", "0.5", "--seed", "3", "--weights", "0.5,0.5", "--name", "both"]
    main(["merge", *names, *options, "--runs", str(tmp_path / "runs"), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["label"], said["method"], said["seed"]) == ("both", "dare_linear", 3)
    assert load_record(Path(said["folder"])).label == "both"  # type: ignore[union-attr]
    for wrong in (["--density", "0"], ["--density", "2"], ["--weights", "a"], ["--method", "mean"], ["--rank", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(["merge", *names, "--method", "ties", *wrong, "--runs", str(tmp_path / "runs")])
        assert wrong[0] in capsys.readouterr().err
