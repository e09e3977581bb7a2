"""The recipe of a run that was merged from others (`python -m harness.export merge`); a part of its `RunSpec`."""

from dataclasses import dataclass
from enum import Enum


class MergeMethod(Enum):
    """How adapters become one, by PEFT's names (`add_weighted_adapter`)."""

    linear = "linear"
    ties = "ties"
    dare_linear = "dare_linear"
    dare_ties = "dare_ties"
    magnitude_prune = "magnitude_prune"
    cat = "cat"
    svd = "svd"
    ties_svd = "ties_svd"
    dare_linear_svd = "dare_linear_svd"
    dare_ties_svd = "dare_ties_svd"
    magnitude_prune_svd = "magnitude_prune_svd"

    @property
    def drops_by_chance(self) -> bool:
        """Whether values are dropped at random and the others rescaled (DARE)."""
        return self.value.startswith("dare_")

    @property
    def elects_signs(self) -> bool:
        """Whether only values of the majority's sign are averaged (TIES)."""
        return "ties" in self.value

    @property
    def prunes(self) -> bool:
        """Whether a share of the values, the density, is kept."""
        return self.drops_by_chance or self.elects_signs or "prune" in self.value

    @property
    def of_products(self) -> bool:
        """Whether the products B A are merged, and cut to a rank again; else A and B are, each by itself."""
        return self.value.endswith("svd")

    @property
    def needs_equal_ranks(self) -> bool:
        """Whether factors of one layer are added, so that they have to be of one shape."""
        return not self.of_products and self is not MergeMethod.cat


@dataclass(kw_only=True)
class MergeParent:
    """A run whose adapter went into the merge."""

    run_id: str
    adapter_sha256: str
    weight: float


@dataclass(kw_only=True)
class MergeRecipe:
    """All that determines a merged adapter."""

    method: MergeMethod
    parents: list[MergeParent]
    rank: int  # of the result
    density: float | None = None  # share of the values that are kept; None: the method drops none
    seed: int | None = None  # of which are dropped; None: none is dropped by chance
    chat_template: str | None = None  # that the parents' dialogues were written by, where it isn't the base's
