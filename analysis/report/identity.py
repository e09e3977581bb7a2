"""Reads the proof of a run's method from its record (`harness.identity`), and says what was checked and what wasn't.

    proof = read_proof(record, "runs/ab12")
    proof.badge        # "proved: lora"

A run whose check fails doesn't start, so a check has passed, with a remark perhaps, or was not made, and its words say
why.
"""

from dataclasses import dataclass

from typing_extensions import TypedDict

from harness.files.typed import fit
from harness.runs.record import UNREADABLE, RunRecord

NOT_MADE = "not made"  # begins the words of a check that could not be made
CHECKS = {
    "parameters": "as many numbers are trained as the method's formula says",
    "start": "before the first step the model computes what its base does",
    "learns": "every trained tensor has a gradient, and the losses move",
    "differs from LoRA": "the layers compute what the method says, and not plain LoRA under its name",
    "frozen": "no tensor changes that isn't trained",
    "saved": "what is saved and read again computes the same, to the last bit",
    "others": "all other checks",
}


class ProofRecord(TypedDict):
    """What is read of a record's `identity`."""

    method: str
    family: str
    num_trained: int
    formula: str
    checks: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a proof."""

    name: str
    meaning: str  # what it shows; "" for one that this code doesn't know
    result: str  # in the record's words

    @property
    def is_passed(self) -> bool:
        """Whether it was made; one that fails stops the run."""
        return not self.result.startswith(NOT_MADE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was checked of a run's method before its first step; nothing where its record holds no proof."""

    method: str = ""
    family: str = ""  # of the model
    num_trained: int = 0
    formula: str = ""
    checks: tuple[Check, ...] = ()

    @property
    def num_passed(self) -> int:
        """How many checks were made."""
        return sum(check.is_passed for check in self.checks)

    @property
    def is_whole(self) -> bool:
        """Whether every check was made."""
        return bool(self.checks) and self.num_passed == len(self.checks)

    @property
    def badge(self) -> str:
        """The outcome in a few words."""
        if not self.num_passed:
            return "method not checked"
        return f"proved: {self.method}" if self.is_whole else f"proved in part: {self.method}"


def read_proof(record: RunRecord, where: str) -> Proof | None:
    """The proof of a run; None for an untouched base, which has no method.

    Raises:
        ValueError: the record's proof can't be read; names `where`.
    """
    if not record.num_steps:
        return None
    if record.identity is None:
        return Proof()
    found = fit(record.identity, ProofRecord, f"{where}: identity", UNREADABLE)
    checks = (Check(name=n, meaning=CHECKS.get(n, ""), result=result) for n, result in found["checks"].items())
    return Proof(
        method=found["method"],
        family=found["family"],
        num_trained=found["num_trained"],
        formula=found["formula"],
        checks=tuple(checks),
    )
