"""What stands before a document's first token: a BOS of id 0 is one."""

from types import SimpleNamespace
from typing import Any

import pytest

from eval.benchmarks.perplexity.score import prefix_token


def base(bos: int | None, eos: int | None) -> Any:
    tokenizer = SimpleNamespace(bos_token_id=bos, eos_token_id=eos)
    return SimpleNamespace(tokenizer=tokenizer, source=SimpleNamespace(location="here"))


@pytest.mark.parametrize(("bos", "eos", "prefix"), [(1, 2, 1), (0, 2, 0), (None, 2, 2), (None, 0, 0)])
def test_bos_then_eos(bos: int | None, eos: int | None, prefix: int) -> None:
    assert prefix_token(base(bos, eos)) == prefix


def test_neither_is_refused() -> None:
    with pytest.raises(ValueError, match="here: its tokenizer has neither"):
        prefix_token(base(None, None))
