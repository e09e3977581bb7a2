"""Refuses scores that are NaN or infinite, because such a model prefers nothing and knows nothing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.banks.load import LoadedBase


def require_finite(base: LoadedBase, members: Sequence[str | None], scores: NDArray[np.float32]) -> None:
    """Passes where every score is a number.

    Args:
        base: the model that gave the scores.
        members: whose adapter gave each row, None for the untouched base, [B].
        scores: log-probabilities or logits, [B] or [B, C].

    Raises:
        ValueError: a score is NaN or infinite; names model and adapter.
    """
    is_finite = np.isfinite(scores.reshape(len(members), -1))
    broken = list(dict.fromkeys(members[row] for row in np.flatnonzero((~is_finite).any(axis=1)).tolist()))
    if not broken:
        return
    names = " and ".join("no adapter" if name is None else f"adapter {name}" for name in broken)
    raise ValueError(
        f"{base.source.location} with {names}: its logits are NaN or infinite, so nothing can be scored; check the "
        f"weights for NaN, or compute in bfloat16 or float32 where it was float16"
    )
