"""Shows how a data file is read: the format, counts, and one example as the model will see it.

python -m harness.data rows.jsonl
python -m harness.data rows.jsonl --model smollm2
"""

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.config.choices import model_choice
from harness.config.paths import paths_of_environment
from harness.config.schema import AssistantTurns, DatasetConfig, PathsConfig
from harness.console import friendly_errors, new_parser
from harness.data.examples import AUTO_FORMAT, Skipped, read_examples, resolved
from harness.data.fields import Example
from harness.data.formats import DATASETS
from harness.data.rows import DataError
from harness.data.source import SourceRow, locate_dataset
from harness.files.hub import Missing

_WIDTH = 80
_LEARNED, _READ = "learned | ", "read    | "
_USAGE = """Show how a data file is read, and one example as the model will see it.

examples:
  python -m harness.data rows.jsonl
  python -m harness.data chats.json --model smollm2
  python -m harness.data rows.csv --format alpaca --row 7
  python -m harness.data rows.parquet --skip-bad-rows --json"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints how the file is read.

    Raises:
        SystemExit: 2 for a file that training would refuse.
    """
    options = _parser().parse_args(arguments)
    with friendly_errors():
        summary = _inspected(options)
        print(json.dumps(summary, indent=2, ensure_ascii=False) if options.json else "\n".join(_lines(summary)))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("python -m harness.data", _USAGE)
    parser.add_argument("file", help="a file of rows, or a folder with one")
    parser.add_argument("--format", default=AUTO_FORMAT, choices=[AUTO_FORMAT, *DATASETS], metavar="FORMAT")
    parser.add_argument(
        "--model", help="a choice of conf/model, a folder or a hub id: shows its tokens and its chat template"
    )
    parser.add_argument("--chat-template", help="a Jinja file, for a model without a template")
    parser.add_argument("--assistant-turns", default="last", choices=[turns.value for turns in AssistantTurns])
    parser.add_argument("--source-max-tokens", type=int, default=384)
    parser.add_argument("--target-max-tokens", type=int, default=128)
    parser.add_argument("--ignore-column", action="append", default=[], metavar="NAME")
    parser.add_argument("--skip-bad-rows", action="store_true", help="count rows that can't be read")
    parser.add_argument("--row", type=int, default=1, help="which example to show, from 1")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _inspected(options: argparse.Namespace) -> dict[str, Any]:
    config = resolved(
        DatasetConfig(
            name=Path(options.file).name,
            hub_id="local",
            format=options.format,
            path=options.file,
            source_max_tokens=options.source_max_tokens,
            target_max_tokens=options.target_max_tokens,
            assistant_turns=AssistantTurns(options.assistant_turns),
            chat_template=options.chat_template,
            ignore_columns=options.ignore_column,
            skip_bad_rows=options.skip_bad_rows,
        )
    )
    source = locate_dataset(config, PathsConfig(cache="unused"))
    if isinstance(source, Missing):
        raise ValueError(str(source))
    skipped, shown = Skipped(), None
    number = num_rows = num_blank = 0
    before: SourceRow | None = None
    for number, (row, example) in enumerate(read_examples(config, source, skipped=skipped), start=1):
        num_rows += row is not before
        before = row
        num_blank += example.label is None and not example.output.strip()
        shown = (row, example) if number == options.row else shown
    if shown is None:
        raise DataError(f"no example {options.row}: it has {number}", file=options.file)
    return {
        "file": options.file,
        "format": config.format,
        "columns": list(shown[0].fields),
        "rows": num_rows,
        "examples": number,
        "blank_targets": num_blank,
        "skipped_rows": skipped.num_rows,
        "skipped": skipped.first,
        "line": shown[0].line,
        "parts": _parts(shown, config, options.model),
    }


def _parts(shown: tuple[SourceRow, Example], config: DatasetConfig, model: str | None) -> list[dict[str, Any]]:
    """The parts of an example, with and without loss; with token counts where a model is given."""
    example = shown[1]
    if example.label is not None:
        texts = example.input if example.pair is None else f"{example.input}\n{example.pair}"
        return [{"loss": False, "text": texts}, {"loss": True, "text": str(example.label)}]
    if model is None:
        turns = [f"{message['role']}: {message['content']}" for message in example.messages[:-1]]
        read = "\n".join(turns) if turns else example.input
        return [{"loss": False, "text": read}, {"loss": True, "text": example.output}]
    from transformers import AutoTokenizer

    from harness.data.encoding import encode_examples
    from harness.data.tokens import with_chat_template

    tokenizer = with_chat_template(AutoTokenizer.from_pretrained(_tokenizer_place(model)), config.chat_template)
    [encoded] = encode_examples([shown], config, tokenizer)
    if isinstance(encoded, DataError):
        raise encoded
    ids, num_source, _, source_cut, target_cut = encoded
    parts = ((False, ids[:num_source], source_cut), (True, ids[num_source:], target_cut))
    return [
        {"loss": loss, "tokens": len(tokens), "cut": cut, "text": tokenizer.decode(tokens)}
        for loss, tokens, cut in parts
    ]


def _tokenizer_place(model: str) -> str:
    """The folder or hub id of a model's tokenizer. Raises ValueError for a choice of conf/model that isn't here."""
    if "/" in model or Path(model).is_dir():
        return model
    from harness.models.convert import checkpoint_folder
    from harness.models.locate import locate_model

    paths = paths_of_environment(None)
    source = locate_model(model_choice(model), paths)
    if isinstance(source, Missing):
        raise ValueError(str(source))
    return source.location if source.kind == "hub" else str(checkpoint_folder(source, Path(paths.cache)))


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        f"{summary['file']}: dataset.format={summary['format']}",
        f"{summary['rows']:,} rows, {summary['examples']:,} examples, {summary['blank_targets']:,} blank targets, "
        f"{summary['skipped_rows']:,} rows left out",
        *(f"left out: {problem}" for problem in summary["skipped"]),
        f"columns: {', '.join(summary['columns'])}",
        "",
        f"The example of line {summary['line']} ('learned' carries loss, 'read' does not):",
    ]
    wrapped = [part for line in lines for part in textwrap.wrap(line, _WIDTH) or [""]]
    for part in summary["parts"]:
        wrapped += _masked(part)
    return wrapped


def _masked(part: dict[str, Any]) -> list[str]:
    prefix = _LEARNED if part["loss"] else _READ
    width = _WIDTH - len(prefix)
    lines = []
    for line in part["text"].split("\n") if part["text"] else []:
        shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
        lines += [prefix + shown[start : start + width] for start in range(0, len(shown), width)] or [prefix.rstrip()]
    if "tokens" in part:
        lines.append(f"{'':8}= {part['tokens']} tokens{', cut to fit' if part['cut'] else ''}")
    return lines


if __name__ == "__main__":
    main()
