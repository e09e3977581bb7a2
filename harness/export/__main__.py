"""The command `python -m harness.export`: writes what a finished run trained, ready for a hub upload.

python -m harness.export RUN_ID --out DIR [--license apache-2.0]
python -m harness.export RUN_ID --out DIR --merge          # a whole checkpoint, of unquantized bases
python -m harness.export merge RUN_ID RUN_ID --method dare_linear --density 0.5 --name both     # a run of its own
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from harness.config.paths import paths_of_environment
from harness.config.schema import PathsConfig
from harness.console import STDERR, friendly_errors, new_parser, say, show
from harness.devices.process import prepare_process
from harness.export.adapter import export
from harness.export.card import UNKNOWN_LICENSE
from harness.export.merged_run import MergeRequest, merge_runs
from harness.runs.merged import MergeMethod

USAGE = """Exports a finished run's adapter as a folder that is ready for a hub upload.

examples:
  python -m harness.export RUN_ID --out my-adapter --license apache-2.0
  python -m harness.export RUN_ID --out my-model --merge
  python -m harness.export merge RUN_ID RUN_ID --method ties --density 0.2     (see merge --help)"""
MERGE_USAGE = """Merges the adapters of finished runs into a run of its own, a contestant like the others.

methods, by PEFT's names (`dare` is dare_linear):
  linear, ties, magnitude_prune, dare_linear, dare_ties
            combine the factors A and B each by itself, of equal ranks; the product has cross terms
  svd, ties_svd, magnitude_prune_svd, dare_linear_svd, dare_ties_svd
            combine the products B A and cut them to a rank
  cat       puts factors beside each other: the exact weighted sum, of the sum of the ranks

examples:
  python -m harness.export merge RUN_ID RUN_ID --method linear --weights 0.7,0.3 --name mixed
  python -m harness.export merge RUN_ID RUN_ID --method dare_ties_svd --density 0.2 --seed 0 --name dared
  python -m harness.export merge RUN_ID --method dare --density 0.1      one run, nine tenths of it dropped
  python -m eval mmlu --run MERGED_RUN_ID"""
MERGE = "merge"  # the first word of a command line that merges runs


def main(command_line: Sequence[str] | None = None) -> None:
    """Exports the run that the command line names, or merges runs.

    Raises:
        SystemExit: 2 where that can't be done; the reason stands on standard error.
    """
    prepare_process()  # before torch, which merges load
    words = list(sys.argv[1:] if command_line is None else command_line)
    if words[:1] == [MERGE]:
        _merge(words[1:])
        return
    given = _parser().parse_args(words)
    with friendly_errors():
        paths = paths_of_environment(given.runs)
        exported = export(
            _run_folder(given.run, paths),
            given.out,
            given.merge,
            force_merge=given.force_merge,
            license_id=given.license,
            paths=paths,
            base=given.base,
        )
        say(f"{exported.folder}: {', '.join(exported.files)}")
        for note in exported.notes:
            say(f"note: {note}", STDERR)


def _merge(words: Sequence[str]) -> None:
    given = _merge_parser().parse_args(words)
    with friendly_errors():
        paths = paths_of_environment(given.runs)
        request = MergeRequest(
            method=MergeMethod(given.method if given.method != "dare" else MergeMethod.dare_linear.value),
            weights=given.weights,
            density=given.density,
            seed=given.seed,
            rank=given.rank,
            name=given.name,
        )
        record = merge_runs([_run_folder(run, paths) for run in given.run], request, Path(paths.runs))
        folder = Path(paths.runs) / record.run_id
        values = {"run_id": record.run_id, "label": record.label, "folder": str(folder), **record.spec["merged"]}
        show(values, Text(f"{folder}: {record.label}, {record.notes[0]}", overflow="fold"), given.as_json)


def _run_folder(run: str, paths: PathsConfig) -> Path:
    return Path(run) if Path(run).is_dir() else Path(paths.runs) / run


def _weights(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = (math.nan,)
    if not all(map(math.isfinite, weights)):
        raise argparse.ArgumentTypeError(f"{text}: expected a number for each run, with commas, as 0.5,0.5")
    return weights


def _density(text: str) -> float:
    try:
        density = float(text)
    except ValueError:
        density = math.nan
    if not 0 < density <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share above 0 and at most 1")
    return density


def _whole(text: str) -> int:
    if not text.isdecimal() or (number := int(text)) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 0")
    return number


def _rank(text: str) -> int:
    if (rank := _whole(text)) == 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1")
    return rank


def _merge_parser() -> argparse.ArgumentParser:
    parser = new_parser(f"python -m harness.export {MERGE}", MERGE_USAGE)
    parser.add_argument("run", nargs="+", help="run ids, or runs' folders: finished, of one base, plain low-rank")
    methods = ["dare", *(method.value for method in MergeMethod)]
    parser.add_argument("--method", choices=methods, required=True, metavar="METHOD", help="one of those above")
    parser.add_argument("--weights", type=_weights, help="one for each run, as 0.5,0.5; default: 1 for ties, else 1/n")
    parser.add_argument("--density", type=_density, help="share of the values that is kept, of methods that drop some")
    parser.add_argument("--seed", type=_whole, help="of what DARE drops; default: 0")
    parser.add_argument("--rank", type=_rank, help="of the result of svd and *_svd; default: the largest of the runs'")
    parser.add_argument("--name", help="of the new run in tables; default: after model and method")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: HARNESS_RUNS, else runs/")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON and nothing else")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("python -m harness.export", USAGE)
    parser.add_argument("run", help="a run id, or a run's folder")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: HARNESS_RUNS, else runs/")
    parser.add_argument("--license", default=UNKNOWN_LICENSE, help="a licence's identifier on the hub")
    parser.add_argument("--base", help="the base's hub id or folder for adapter_config.json; default: where it is")
    parser.add_argument("--merge", action="store_true", help="write base + adapter as one model (unquantized bases)")
    parser.add_argument("--force-merge", action="store_true", help="likewise for a quantized base; its scores drift")
    return parser


if __name__ == "__main__":
    main()
