"""Keeps proofs, so that a method is proved on a base once, however many runs train it there, in whatever process.

What was proved lies in the cache, by a digest of everything that a proof depends on: the base's weights and how they
are stored, the method, the versions of the libraries and the code itself. A failure is not kept beyond the process.
The number of trained parameters is counted for every run: runs of one method may differ in rank.
"""

import hashlib
import json
from contextlib import suppress
from functools import cache
from pathlib import Path

from harness.banks.bank import Bank
from harness.config.schema import AdapterConfig
from harness.files.atomic import write_json
from harness.files.typed import read_typed
from harness.identity.proof import NotTheMethodError, Proof, counted, prove
from harness.methods.keys import OWN_KEYS
from harness.runs.record import package_versions

REMEDY = "delete the file: the method is proved again"
_PROVED_BY = ("identity", "methods", "banks", "nn", "variants")  # folders of harness/ whose code a proof runs through
_KEPT: dict[str, Proof | NotTheMethodError] = {}


def proved(bank: Bank, name: str, config: AdapterConfig, weights: str, folder: Path) -> Proof:
    """As `harness.identity.proof.prove`, from memory or the cache where the same was proved on the same base.

    Args:
        bank: holds the member, at its start.
        name: the member's.
        config: as it was added.
        weights: names the base's weights, how they are stored and computed with.
        folder: of the cache.

    Raises:
        NotTheMethodError: a check failed, now or before in this process.
    """
    key = _key(bank, config, weights)
    file = folder / f"{key}.json"
    if key not in _KEPT and file.is_file():
        with suppress(ValueError):  # cut off: it is proved again
            _KEPT[key] = read_typed(file, Proof, REMEDY)
    if isinstance(known := _KEPT.get(key), Proof):
        return counted(known, bank, name, config)
    if isinstance(known, NotTheMethodError):
        raise NotTheMethodError(str(known))
    try:
        found = _KEPT[key] = prove(bank, name, config)
    except NotTheMethodError as error:
        _KEPT[key] = error
        raise
    write_json(file, found.to_dict())
    return found


def _key(bank: Bank, config: AdapterConfig, weights: str) -> str:
    method = [config.method_name, list(config.targets), config.peft, config.layers]
    method += [getattr(config, key) for key in OWN_KEYS]
    where = [type(bank).__name__, bank.device.type, str(bank.dtype), bank.shards is not None]
    return hashlib.sha256(json.dumps([weights, method, where, package_versions(), _code()]).encode()).hexdigest()[:24]


@cache
def _code() -> str:
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in _PROVED_BY:
        for path in sorted((root / name).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
