"""Computes an embedding of each sequence: the mean of a base's last hidden states over its tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from harness.banks.load import LoadedBase
from harness.nn.attention import Packed
from harness.nn.batch import Segment

ROW_TOKENS = 4096  # of a pass; a longer sequence is a pass of its own


def embed(
    base: LoadedBase, sequences: Sequence[NDArray[np.int32]], row_tokens: int = ROW_TOKENS
) -> NDArray[np.float64]:
    """(num_sequences, hidden) of the untouched base.

    Args:
        base: with a bank that shares it.
        sequences: token ids, none empty.
        row_tokens: of a pass.
    """
    parts, waiting = [], list(sequences)
    while waiting:
        taken, total = 1, len(waiting[0])
        while taken < len(waiting) and total + len(waiting[taken]) <= row_tokens:
            total += len(waiting[taken])
            taken += 1
        parts += _pass(base, waiting[:taken])
        del waiting[:taken]
    return np.array(parts, dtype=np.float64)


@torch.no_grad()
def _pass(base: LoadedBase, sequences: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float64]]:
    lengths = [len(tokens) for tokens in sequences]
    row = torch.from_numpy(np.concatenate(sequences).astype(np.int64)).to(base.bank.device)[None]
    hidden = base.bank(row, [Segment(num_tokens=length, member=None) for length in lengths], plan=Packed(lengths))[0]
    return [part.float().mean(dim=0).double().cpu().numpy() for part in hidden.split(lengths)]
