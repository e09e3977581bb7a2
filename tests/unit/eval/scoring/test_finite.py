"""Logits that are no numbers decide nothing: every way of scoring refuses them, by model and adapter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.scoring.continuations import Continuation, score_continuations
from eval.scoring.finite import require_finite
from eval.scoring.next_token import Prompt, next_token_logprobs
from eval.scoring.padded import score_padded
from harness.banks.load import LoadedBase
from tests.builders import open_base
from tests.tiny import make_checkpoint

TOKENS = list(range(3, 12))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    return open_base(make_checkpoint(tmp_path_factory.mktemp("tiny")))


WAYS: dict[str, Callable[[LoadedBase], Any]] = {
    "next token": lambda base: next_token_logprobs(base, [Prompt(tokens=TOKENS)], [4, 5]),
    "padded": lambda base: list(score_padded(base, [Prompt(tokens=TOKENS)], [[4, 5]])),
    "continuations": lambda base: list(score_continuations(base, [Continuation(tokens=TOKENS, num_context=4)])),
}


@pytest.fixture(params=[float("nan"), float("inf")], ids=str)
def poisoned(request: pytest.FixtureRequest, base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> LoadedBase:
    real = base.bank.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found = real(hidden).clone()
        found[-1, 0] = request.param  # one number of one row is enough, and it is no candidate's
        return found

    monkeypatch.setattr(base.bank, "logits", logits)
    return base


@pytest.mark.parametrize("way", WAYS)
def test_one_logit_that_is_no_number_ends_the_scoring(way: str, poisoned: LoadedBase) -> None:
    with pytest.raises(ValueError, match=r"with no adapter: its logits are NaN or infinite") as refused:
        WAYS[way](poisoned)
    assert poisoned.source.location in str(refused.value)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_pass(way: str, base: LoadedBase) -> None:
    WAYS[way](base)


def test_the_adapters_with_such_logits_are_named_and_no_others(base: LoadedBase) -> None:
    scores = np.array([[0.0, 1.0], [np.nan, 1.0], [0.0, -np.inf], [0.0, 0.0]], dtype=np.float32)
    with pytest.raises(ValueError, match="with adapter two and adapter one: its logits"):
        require_finite(base, [None, "two", "one", "four"], scores)
    require_finite(base, [None, "four"], scores[[0, 3]])


def test_a_nan_in_a_checkpoint_is_found_by_name(tmp_path: Path) -> None:
    loaded = open_base(make_checkpoint(tmp_path))
    with torch.no_grad():
        next(iter(loaded.bank.parameters())).fill_(float("nan"))
    with pytest.raises(ValueError, match=str(tmp_path)):
        next_token_logprobs(loaded, [Prompt(tokens=TOKENS)], [4])
