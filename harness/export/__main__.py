"""The command `python -m harness.export`: what a finished run trained, as a folder that is ready for a hub upload.

python -m harness.export RUN_ID --out DIR [--license apache-2.0]
python -m harness.export RUN_ID --out DIR --merge          # a whole checkpoint, of unquantized bases
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.config.schema import PathsConfig
from harness.export.adapter import export
from harness.export.card import UNKNOWN_LICENSE
from harness.export.checks import ExportRefusedError

EXIT_BAD_INPUT = 2


def main(command_line: Sequence[str] | None = None) -> int:
    """The command. -> exit status: 0, or 2 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.export", description="Export a finished run's adapter, ready for a hub upload."
    )
    parser.add_argument("run", help="a run id, or a run's folder")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default: HARNESS_RUNS, else runs/")
    parser.add_argument("--license", default=UNKNOWN_LICENSE, help="a licence's identifier on the hub")
    parser.add_argument("--base", help="the base's hub id or folder for adapter_config.json; default: where it is")
    parser.add_argument("--merge", action="store_true", help="write base + adapter as one model (unquantized bases)")
    parser.add_argument("--force-merge", action="store_true", help="likewise for a quantized base; its scores drift")
    given = parser.parse_args(command_line)
    runs = given.runs or Path(os.environ.get("HARNESS_RUNS", "runs"))
    folder = Path(given.run) if Path(given.run).is_dir() else runs / given.run
    paths = PathsConfig(
        runs=str(runs),
        model_store=os.environ.get("HARNESS_MODEL_STORE"),
        cache=os.environ.get("HARNESS_CACHE", ".cache"),
    )
    try:
        done = export(
            folder,
            given.out,
            given.merge,
            force_merge=given.force_merge,
            license_id=given.license,
            paths=paths,
            base=given.base,
        )
    except ExportRefusedError as error:
        print(f"export: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(f"{done.folder}: {', '.join(done.files)}")
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
