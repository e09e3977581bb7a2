"""LQ-LoRA's factors by eigenvectors of the shorter side are those of a singular value decomposition."""

import pytest
import torch

from harness.variants.lq_fisher import weighting_of
from harness.variants.lq_lora import best_factors
from harness.variants.lq_spectrum import leading


@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_the_largest_eigenvectors(rank: int) -> None:
    matrix_SS = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram_SS = matrix_SS @ matrix_SS.T
    vectors_SR = leading(gram_SS, rank)
    values_S = torch.linalg.eigvalsh(gram_SS)
    assert vectors_SR.shape == (12, rank)
    torch.testing.assert_close(vectors_SR.T @ vectors_SR, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(gram_SS @ vectors_SR, vectors_SR * values_S[12 - rank :])
    assert leading(gram_SS.float(), rank).dtype is torch.float32


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
@pytest.mark.parametrize("weighted", [False, True])
def test_factors_are_those_of_singular_vectors(shape: tuple[int, int], weighted: bool) -> None:
    """Up to the sign of a row and its column, which no product, norm or step of training sees."""
    generator = torch.Generator().manual_seed(0)
    matrix_OI, scale, rank = torch.randn(shape, generator=generator), 2.0, 6
    weighting = weighting_of(torch.rand(shape, generator=generator) ** 4) if weighted else None
    row_O, column_I = (torch.ones(shape[0]), torch.ones(shape[1])) if weighting is None else weighting[:2]
    scaled_OI = (row_O[:, None] * matrix_OI * column_I).double()
    u_OK, s_K, v_KI = torch.linalg.svd(scaled_OI, full_matrices=False)
    root_R = (s_K[:rank] / scale).sqrt()
    theirs_RI, theirs_OR = root_R[:, None] * v_KI[:rank] / column_I, u_OK[:, :rank] * root_R / row_O[:, None]
    a_RI, b_OR = best_factors(matrix_OI, rank, scale, weighting)
    assert a_RI.dtype is b_OR.dtype is torch.float32
    assert a_RI.is_contiguous()
    assert b_OR.is_contiguous()
    torch.testing.assert_close(b_OR @ a_RI, (theirs_OR @ theirs_RI).float(), rtol=1e-5, atol=1e-6)
    signs_R = (a_RI * theirs_RI).sum(1).sign()
    torch.testing.assert_close(a_RI, (signs_R[:, None] * theirs_RI).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b_OR, (signs_R * theirs_OR).float(), rtol=1e-4, atol=1e-5)


def test_a_matrix_of_less_rank_than_the_factors() -> None:
    matrix_OI = torch.outer(torch.arange(1.0, 7.0), torch.arange(1.0, 9.0))
    for matrix in (matrix_OI, matrix_OI.T, torch.zeros(6, 8)):
        a_RI, b_OR = best_factors(matrix, 3, 2.0)
        assert a_RI.isfinite().all()
        assert b_OR.isfinite().all()
        torch.testing.assert_close(2.0 * b_OR @ a_RI, matrix, rtol=1e-5, atol=1e-5)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="infs or NaNs"):
        best_factors(torch.full((3, 4), torch.nan), 2, 1.0)
