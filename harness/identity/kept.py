"""Keeps proofs, so that a process proves a method on a base once, however many runs train it there.

The number of trained parameters is counted for every run: runs of one method may differ in rank.
"""

from harness.banks.bank import Bank
from harness.config.schema import AdapterConfig
from harness.identity.proof import NotTheMethodError, Proof, counted, prove

_KEPT: dict[tuple[str, str], Proof | NotTheMethodError] = {}


def proved(bank: Bank, name: str, config: AdapterConfig) -> Proof:
    """As `harness.identity.proof.prove`, from memory where the same was proved on the same base.

    Raises:
        NotTheMethodError: a check failed, now or before.
    """
    key = (bank.proof_key, repr([config.method_name, config.targets, config.peft]))
    if key in _KEPT and isinstance(known := _KEPT[key], Proof):
        return counted(known, bank, name, config)
    if key not in _KEPT:
        try:
            _KEPT[key] = prove(bank, name, config)
        except NotTheMethodError as error:
            _KEPT[key] = error
    found = _KEPT[key]
    if isinstance(found, NotTheMethodError):
        raise NotTheMethodError(str(found))
    return found
