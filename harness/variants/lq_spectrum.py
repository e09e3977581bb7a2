"""The largest eigenvectors of a symmetric matrix, which is what LQ-LoRA's best matrix of rank r needs.

    best of rank r for M = U U^T M,    U: the r largest eigenvectors of M M^T, M's shorter side first

A singular value decomposition finds all of M's vectors on both sides, of which r are used. On a CPU, LAPACK's `syevr`
computes only those that are asked for; other devices compute all eigenvectors of the short side.
"""

import torch
from scipy.linalg import eigh
from torch import Tensor


def leading(gram_SS: Tensor, rank: int) -> Tensor:
    """-> the eigenvectors of the largest eigenvalues, [S, R], the largest last

    Raises:
        ValueError: the matrix holds what is no number.
    """
    size = len(gram_SS)
    if rank == 0:
        return gram_SS.new_zeros(size, 0)
    if gram_SS.device.type != "cpu":
        vectors_SS: Tensor = torch.linalg.eigh(gram_SS).eigenvectors
        return vectors_SS[:, -rank:]
    _, vectors_SR = eigh(gram_SS.numpy(), subset_by_index=(max(size - rank, 0), size - 1), driver="evr")
    return torch.from_numpy(vectors_SR)
