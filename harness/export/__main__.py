"""The command `python -m harness.export`: writes what a finished run trained, ready for a hub upload.

python -m harness.export RUN_ID --out DIR [--license apache-2.0]
python -m harness.export RUN_ID --out DIR --merge          # a whole checkpoint, of unquantized bases
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.config.paths import paths_of_environment
from harness.console import STDERR, friendly_errors, new_parser, say
from harness.export.adapter import export
from harness.export.card import UNKNOWN_LICENSE

USAGE = """Exports a finished run's adapter as a folder that is ready for a hub upload.

examples:
  python -m harness.export RUN_ID --out my-adapter --license apache-2.0
  python -m harness.export RUN_ID --out my-model --merge"""


def main(command_line: Sequence[str] | None = None) -> None:
    """Exports the run that the command line names.

    Raises:
        SystemExit: 2 where the run can't be exported; the reason stands on standard error.
    """
    given = _parser().parse_args(command_line)
    with friendly_errors():
        paths = paths_of_environment(given.runs)
        folder = Path(given.run) if Path(given.run).is_dir() else Path(paths.runs) / given.run
        exported = export(
            folder,
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
