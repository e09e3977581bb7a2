"""Keeps proofs, so that a process proves a method on a base once, however many runs train it there."""

import dataclasses

from harness.banks.bank import Bank
from harness.config.schema import AdapterConfig
from harness.identity.proof import NotTheMethodError, Proof, prove

_KEPT: dict[tuple[str, str], Proof | NotTheMethodError] = {}


def proved(bank: Bank, name: str, config: AdapterConfig) -> Proof:
    """As `harness.identity.proof.prove`, from memory where the same was proved on the same base.

    Raises:
        NotTheMethodError: a check failed, now or before.
    """
    key = (bank.proof_key, repr(dataclasses.replace(config, name="")))
    if key not in _KEPT:
        try:
            _KEPT[key] = prove(bank, name, config)
        except NotTheMethodError as error:
            _KEPT[key] = error
    found = _KEPT[key]
    if isinstance(found, NotTheMethodError):
        raise NotTheMethodError(str(found))
    return found
