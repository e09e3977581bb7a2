"""How close is an answer to one of several references? RougeL and exact match as Super-NaturalInstructions has them.

Both take the best reference. RougeL is the F measure of the longest common subsequence of stemmed words, by the
`rouge_score` package; exact match ignores case, punctuation and spacing, not articles.
Source: yizhongw/Tk-Instruct, src/compute_metrics.py (its English track).
"""

import string
from collections.abc import Sequence
from functools import cache
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """-> 0 to 1. Raises ValueError without references."""
    return max(
        float(_scorer().score(target=reference, prediction=answer)["rougeL"].fmeasure) for reference in references
    )


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether it says the same as one of them."""
    return any(_normalized(answer) == _normalized(reference) for reference in references)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports scikit-learn and pandas: 0.8 s

    return RougeScorer(["rougeL"], use_stemmer=True)


def _normalized(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())
