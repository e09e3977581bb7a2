"""Combines the low-rank factors that several adapters have of one layer into one pair, as PEFT does.

Two forms: the factors A and B are combined each by itself, which is cheap and has cross terms (B1 A2), or the products
B A are, and are cut to a rank by their singular values. `cat` puts factors beside each other, which is exact. Within
each form values are summed by weight, after a share of them was dropped, at random with the rest rescaled (DARE, Yu et
al. 2023, arXiv 2311.03099) or the smallest (magnitude pruning), or averaged where they have the majority's sign (TIES,
Yadav et al. 2023, arXiv 2306.01708).
Source: PEFT 0.21, `LoraModel.add_weighted_adapter` and `peft.utils.merge_utils`, equal to it. It alone leaves
`use_rslora` of the first adapter on, which multiplies the result by the root of its rank; here the scale is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge, magnitude_based_pruning
from torch import Tensor
from torch.nn import functional as F

from harness.runs.merged import MergeMethod, MergeRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """What an adapter has of one layer: it adds scale * B A to the weights."""

    a_rI: Tensor
    b_Or: Tensor
    scale: float


def combine(
    factors: Sequence[Factors], weights: Sequence[float], recipe: MergeRecipe, generator: torch.Generator
) -> Factors:
    """One pair of factors, of scale 1, of those of several adapters.

    Args:
        factors: of each adapter that has this layer.
        weights: of each of them.
        recipe: its rank is that of the result, but for `cat`, whose factors keep their own.
        generator: on the CPU; DARE draws the masks of A one after the other, then those of B, or those of the products.
    """
    scaled = [weight * of.scale for of, weight in zip(factors, weights, strict=True)]
    if recipe.method is MergeMethod.cat:
        a_rI = torch.cat([of.a_rI * scale for of, scale in zip(factors, scaled, strict=True)])
        return Factors(a_rI=a_rI, b_Or=torch.cat([of.b_Or for of in factors], dim=1), scale=1.0)
    if recipe.method.of_products:
        products_OI = [of.b_Or @ of.a_rI * of.scale for of in factors]
        return _cut(_merged(products_OI, weights, recipe, generator), recipe.rank)
    roots = [math.sqrt(abs(scale)) for scale in scaled]
    signed = [math.copysign(root, scale) for root, scale in zip(roots, scaled, strict=True)]
    a_rI = _merged([of.a_rI for of in factors], signed, recipe, generator)
    return Factors(a_rI=a_rI, b_Or=_merged([of.b_Or for of in factors], roots, recipe, generator), scale=1.0)


def with_rank(factors: Factors, rank: int) -> Factors:
    """The same product as factors of a larger rank: zeros fill them up."""
    missing = rank - len(factors.a_rI)
    a_rI, b_Or = F.pad(factors.a_rI, (0, 0, 0, missing)), F.pad(factors.b_Or, (0, missing))
    return Factors(a_rI=a_rI, b_Or=b_Or, scale=factors.scale)


def _merged(
    tensors: Sequence[Tensor], weights: Sequence[float], recipe: MergeRecipe, generator: torch.Generator
) -> Tensor:
    """The weighted sum of what is left of the tensors, or the mean of those values that have the majority's sign."""
    kept = torch.stack([_pruned(tensor, recipe, generator) for tensor in tensors])
    weighted = kept * torch.tensor(weights).view(-1, *[1] * (kept.dim() - 1))
    if not recipe.method.elects_signs:
        return weighted.sum(dim=0)
    averaged: Tensor = disjoint_merge(weighted, calculate_majority_sign_mask(kept))
    return averaged


def _pruned(tensor: Tensor, recipe: MergeRecipe, generator: torch.Generator) -> Tensor:
    if recipe.density is None or recipe.density == 1.0:
        return tensor
    if not recipe.method.drops_by_chance:
        largest: Tensor = magnitude_based_pruning(tensor, recipe.density)
        return largest
    kept = torch.bernoulli(torch.full_like(tensor, recipe.density), generator=generator)
    return tensor * kept / recipe.density


def _cut(product_OI: Tensor, rank: int) -> Factors:
    """The nearest product of that rank: its first singular vectors, those of the output times their values."""
    u, s, vh = torch.linalg.svd(product_OI, full_matrices=False)
    return Factors(a_rI=vh[:rank], b_Or=u[:, :rank] * s[:rank], scale=1.0)
