"""Do the fast tests notice a wrong line? Tries one-line mutations of modules against the tests that run them.

    make mutants MODULES="harness/nn harness/banks" SAMPLE=40 SEED=0
    python -m tests.mutants harness/training/loop.py --sample 0 --json rates.json

First every test that concerns a module runs once under coverage, so that each line's tests are known. Then each
mutation is written into a copy of the tree (`.mutants/`), and its line's tests run in a forked process, in which torch
and the like are imported already, until one fails. What was tried is kept: a killed run goes on where it was, killed
mutations count until their file changes, and survivors are tried again when tests change.
Why not mutmut or cosmic-ray: docs/decisions/0015.
"""

import argparse
import json
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutants.mutations import Mutation, mutations
from tests.mutants.named import NAMED
from tests.mutants.tree import KILLED, Tree

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")


def main() -> int:
    """-> exit status: 1 where a named mutation survived."""
    chosen = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tree = Tree(ROOT, ROOT / ".mutants", chosen.tests)
    rates = [_try(tree, name, chosen) for name in chosen.modules]
    if chosen.named:
        rates.append(_rate("named", _outcomes(tree, [(named.mutation(ROOT), named.tests) for named in NAMED])))
    if chosen.json:
        chosen.json.write_text(json.dumps({"sample": chosen.sample, "seed": chosen.seed, "modules": rates}, indent=2))
    return int(chosen.named and bool(rates[-1]["survived"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help="files or folders")
    parser.add_argument("--sample", type=int, default=40, help="mutations of each module; 0: all (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument(
        "--tests", nargs="*", default=[], help="test files or folders (default: those that name its package)"
    )
    parser.add_argument("--named", action="store_true", help="also those of tests/mutants/named.py")
    parser.add_argument("--json", type=Path, help="file for the rates and the survivors")
    return parser.parse_args()


def _try(tree: Tree, module: str, chosen: argparse.Namespace) -> dict[str, object]:
    files = sorted((ROOT / module).rglob("*.py")) if (ROOT / module).is_dir() else [ROOT / module]
    every = [m for file in files for m in mutations(ROOT, str(file.relative_to(ROOT)))]
    if 0 < chosen.sample < len(every):
        every = sorted(random.Random(chosen.seed).sample(every, chosen.sample), key=lambda m: (m.file, m.line))
    equivalent = json.loads(EQUIVALENT.read_text())
    left = [(m, None) for m in every if m.key not in equivalent and not m.is_assertion]
    return _rate(module, _outcomes(tree, left)) | {"equivalent": len(every) - len(left)}


def _outcomes(tree: Tree, chosen: Sequence[tuple[Mutation, Sequence[str] | None]]) -> Iterator[tuple[Mutation, str]]:
    for mutation, tests in chosen:
        outcome = tree.outcome(mutation, tests)
        if outcome != KILLED:
            print(f"{mutation.file}:{mutation.line}: {outcome}: {mutation.old}  ->  {mutation.new}", flush=True)
        yield mutation, outcome


def _rate(module: str, outcomes: Iterator[tuple[Mutation, str]]) -> dict[str, object]:
    tried = list(outcomes)
    killed = sum(outcome == KILLED for _, outcome in tried)
    share = f"{killed / len(tried):.0%}" if tried else "nothing to try"
    print(f"{module}: {len(tried)} tried, {killed} killed, {len(tried) - killed} survived: {share}", flush=True)
    return {
        "module": module,
        "tried": len(tried),
        "killed": killed,
        "survived": [{"key": m.key, "line": m.line, "why": outcome} for m, outcome in tried if outcome != KILLED],
    }


if __name__ == "__main__":
    sys.exit(main())
