"""Perplexity: equal to a plain transformers loop and to lm-eval's windows; sources read and checked; resumed."""

import gzip
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from eval.benchmarks.benchmark import save_results
from eval.benchmarks.intervals import mean_interval, wilson_interval
from eval.benchmarks.perplexity import score as perplexity
from eval.benchmarks.perplexity.score import document_windows, score_perplexity
from eval.benchmarks.perplexity.settings import PerplexitySettings
from eval.benchmarks.perplexity.texts import TextSource, load_documents
from eval.benchmarks.registry import BENCHMARKS
from eval.ratings.intervals import ratio_interval
from harness.banks.load import LoadedBase
from harness.config.schema import PathsConfig
from tests.builders import open_base
from tests.tiny import make_checkpoint

DOCUMENTS = ["The capital of France is Paris. " * 6, "Eat well,\nsleep  well, move often. Ünïcode!", "Hello! " * 25]
SETTINGS = PerplexitySettings(text="three", window=32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny")))


def plain_nll(base: LoadedBase, text: str, window: int, stride: int) -> float:
    """The loop of transformers' guide on fixed-length models: labels of -100 where a token is context only."""
    model = AutoModelForCausalLM.from_pretrained(base.source.location, dtype=torch.float32)
    ids = torch.tensor([[base.tokenizer.bos_token_id, *base.tokenizer.encode(text, add_special_tokens=False)]])
    total, predicted_to, size = 0.0, 0, ids.shape[1]
    while predicted_to < size - 1:
        end = min(window if predicted_to == 0 else predicted_to + stride, size - 1)
        piece = ids[:, max(0, end - window) : end + 1]
        labels = piece.clone()
        labels[:, : -(end - predicted_to)] = -100
        with torch.no_grad():
            loss = model(piece, labels=labels).loss
        total += float(loss) * (end - predicted_to)
        predicted_to = end
    return total


@pytest.mark.parametrize(("window", "stride"), [(32, 32), (32, 8), (2048, 2048), (5, 1)])
def test_every_document_equals_a_plain_loop(base: LoadedBase, window: int, stride: int) -> None:
    settings = PerplexitySettings(text="three", window=window, stride=stride)
    result = score_perplexity(base, {"base": None}, DOCUMENTS, settings)["base"]
    expected = [plain_nll(base, text, window, stride) for text in DOCUMENTS]
    np.testing.assert_allclose([d.nll for d in result.documents], expected, rtol=1e-5)
    num_tokens = sum(len(base.tokenizer.encode(text, add_special_tokens=False)) for text in DOCUMENTS)
    num_bytes = sum(len(text.encode()) for text in DOCUMENTS)
    assert (result.num_tokens, result.num_bytes) == (num_tokens, num_bytes)
    assert result.token_perplexity == pytest.approx(math.exp(sum(expected) / num_tokens), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(sum(expected) / num_bytes / math.log(2), rel=1e-5)
    assert result.word_perplexity is None or result.word_perplexity > result.token_perplexity


@given(st.integers(0, 200), st.integers(1, 40), st.data())
def test_windows_predict_every_token_once_with_a_full_context(size: int, window: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, window))
    tokens = list(range(10, 10 + size))
    found: list[int] = []
    for number, (piece, num_context) in enumerate(document_windows(tokens, 1, window, stride)):
        assert len(piece) <= window + 1
        assert number == 0 or len(piece) == window + 1
        found += piece[num_context:]
    assert found == tokens


def test_windows_are_lm_evals(base: LoadedBase) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="needs the `tasks` extra (lm-eval)")
    for size, window, stride in ((0, 8, 8), (5, 8, 8), (8, 8, 8), (50, 8, 8), (50, 8, 3), (17, 8, 1)):
        tokens = list(range(10, 10 + size))
        theirs = utils.get_rolling_token_windows(tokens, 1, max_seq_len=window, context_len=window - stride + 1)
        expected = [([*a, b[-1]], len(a) + 1 - len(b)) for a, b in theirs]
        assert list(document_windows(tokens, 1, window, stride)) == expected


def test_adapters_are_scored_in_one_call_as_alone(base: LoadedBase) -> None:
    both = score_perplexity(base, {"base": None, "tuned": "tuned"}, DOCUMENTS, SETTINGS)
    alone = score_perplexity(base, {"tuned": "tuned"}, DOCUMENTS, SETTINGS)["tuned"]
    assert both["tuned"].token_perplexity == pytest.approx(alone.token_perplexity, rel=1e-5)
    assert both["base"].token_perplexity != pytest.approx(alone.token_perplexity, rel=1e-2)
    assert both["base"].model_sha256 != alone.model_sha256
    low, high = both["base"].token_perplexity_ci95 or (0, 0)
    assert low < (both["base"].token_perplexity or 0) < high


def test_a_killed_call_goes_on_and_nothing_stale_is_reused(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count_requests(monkeypatch)
    whole = score_perplexity(base, {"base": None}, DOCUMENTS, SETTINGS, partial_dir=tmp_path / "whole")["base"]
    total = asked()

    def kill(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_perplexity(base, {"base": None}, DOCUMENTS, SETTINGS, kill, tmp_path)
    before = asked()
    again = score_perplexity(base, {"base": None}, DOCUMENTS, SETTINGS, partial_dir=tmp_path)["base"]
    assert 0 < asked() - before < total
    np.testing.assert_allclose([d.nll for d in again.documents], [d.nll for d in whole.documents], rtol=1e-5)
    for change in ("documents", "settings", "model"):
        before = asked()
        documents = [*DOCUMENTS[:2], "Other."] if change == "documents" else DOCUMENTS
        settings = PerplexitySettings(text="three", window=32, stride=16) if change == "settings" else SETTINGS
        members = {"base": "tuned"} if change == "model" else {"base": None}
        score_perplexity(base, members, documents, settings, partial_dir=tmp_path)
        assert asked() > before + total // 2, change
    save_results(BENCHMARKS["perplexity"], {"base": whole}, tmp_path)
    assert json.loads((tmp_path / "perplexity.json").read_text())["num_documents"] == 3


def count_requests(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    counts: list[int] = []
    original = perplexity.score_continuations

    def counting(base: LoadedBase, requests: list[object], row_tokens: int | None) -> object:
        counts.append(len(requests))
        return original(base, requests, row_tokens=64)  # type: ignore[arg-type]

    monkeypatch.setattr(perplexity, "score_continuations", counting)
    return lambda: sum(counts)


def read(where: Path | str, **options: object) -> list[str]:
    return load_documents(TextSource(where=str(where), **options), PathsConfig(cache="unused"))  # type: ignore[arg-type]


def test_sources_of_every_kind(tmp_path: Path) -> None:
    rows = [{"text": "one", "meta": {"set": "a"}}, {"text": " "}, {"text": "two", "meta": {"set": "b"}}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    assert read(tmp_path / "rows.jsonl") == ["one", "two"]
    assert read(tmp_path / "rows.jsonl", only="meta.set=b") == ["two"]
    assert read(tmp_path / "rows.jsonl", limit=1) == ["one"]
    assert read(tmp_path / "rows.jsonl", joined=True) == ["one\n\ntwo"]
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as packed:
        packed.write(lines.encode())
    with pyarrow.output_stream(str(tmp_path / "rows.jsonl.zst"), compression="zstd") as stream:
        stream.write(lines.encode())
    assert read(tmp_path / "rows.jsonl.gz") == read(tmp_path / "rows.jsonl.zst") == ["one", "two"]
    (tmp_path / "book.txt").write_text("line\nline")
    assert read(tmp_path / "book.txt") == read(tmp_path) == ["line\nline"]
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "pile_cc.jsonl").write_text(
        '{"text": "x", "meta": {"pile_set_name": "Github"}}\n{"text": "y", "meta": {"pile_set_name": "Pile-CC"}}\n'
    )
    paths = PathsConfig(cache="unused", data_store=str(tmp_path / "store"))
    assert load_documents(TextSource(where="pile_cc"), paths) == ["y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file, and no folder"),
        ("empty.jsonl", "", "holds no text"),
        ("empty.txt", " ", "holds no text"),
        ("field.jsonl", '{"text": "a"}\n{"page": "b"}', "line 2: text is None; expected text"),
        ("broken.jsonl", '{"text": "a"}\n{"text"', "line 2: broken JSON"),
        ("kind.pdf", "x", "unknown kind of file"),
        ("bad.jsonl.gz", "not gzip", "can't be unpacked"),
    ],
)
def test_bad_sources_are_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_without_a_hub_a_named_set_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"hub:monology/pile-uncopyrighted:validation: the hub can't serve it .*data store"
    ):
        read("pile_cc")
    with pytest.raises(ValueError, match="expected hub:ID:SPLIT"):
        read("hub:wikitext")
    with pytest.raises(ValueError, match="only='x'"):
        TextSource(where="pile_cc", only="x")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"window": 4096}, "window=4096: this model takes at most 2048"), ({"window": 8, "stride": 9}, "stride=9")],
)
def test_windows_that_do_not_fit_are_refused(base: LoadedBase, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        score_perplexity(base, {"base": None}, DOCUMENTS, PerplexitySettings(text="t", **options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window=0"):
        PerplexitySettings(text="t", window=0)


def test_intervals_by_hand() -> None:
    assert wilson_interval(4, 6) == pytest.approx((0.299993, 0.903229), abs=1e-5)  # statsmodels, method wilson
    assert mean_interval([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]) == wilson_interval(4, 6)
    assert mean_interval([1.0, 3.0]) == pytest.approx(
        (2 - 12.7062, 2 + 12.7062), abs=1e-4
    )  # t with 1 degree of freedom
    assert mean_interval([2.5]) is None
    rng = np.random.default_rng(1)
    counts = rng.integers(50, 150, 400).astype(float)
    nll = counts * 2 + rng.normal(0, 10, 400)
    low, high = ratio_interval(nll, counts) or (0, 0)
    assert low < 2.0 < high
    assert high - low == pytest.approx(2 * 1.96 * 10 * math.sqrt(400) / counts.sum(), rel=0.15)
    assert ratio_interval(nll[:1], counts[:1]) is None
