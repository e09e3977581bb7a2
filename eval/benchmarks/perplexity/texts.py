"""Reads the text that perplexity is measured on: a named set, a file, or any set of the hub.

    load_documents(TextSource(where="pages.jsonl"), paths)                   # rows with a field `text`
    load_documents(TextSource(where="book.txt"), paths)                      # one document; a folder: one a file
    load_documents(TextSource(where="hub:wikitext:wikitext-2-raw-v1:test"), paths)
    load_documents(TextSource(where="pile_cc"), paths)                       # a name of TEXT_SETS

Source: The Pile (arXiv 2101.00027), whose Common Crawl part QLoRA's Table 2 uses. The Pile's first home is gone;
`monology/pile-uncopyrighted` on the hub still has Pile-CC, marked as such in each row (as its dataset card and file
list say; not downloaded here: there was no network). A file `pile_cc.jsonl` in the data store comes first.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.schema import PathsConfig
from harness.data.rows import SUFFIXES, read_file

HUB = "hub:"  # then id:split, or id:subset:split
_PACKED_SUFFIXES = (".jsonl.gz", ".jsonl.zst")
_FILE_SUFFIXES = (*SUFFIXES, ".txt", *_PACKED_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSet:
    """A named set: where the hub has it, and which of its rows belong to it."""

    hub: str  # "hub:id:split" or "hub:id:subset:split"
    where: str = ""  # "key=value": only rows with that; dots reach into objects
    joined: bool = False  # its rows are lines of one text


TEXT_SETS: dict[str, TextSet] = {
    "pile_cc": TextSet(hub="hub:monology/pile-uncopyrighted:validation", where="meta.pile_set_name=Pile-CC"),
    "wikitext2": TextSet(hub="hub:Salesforce/wikitext:wikitext-2-raw-v1:test", joined=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """A text's place, and which rows and field of it are the documents."""

    where: str  # a name of TEXT_SETS, "hub:...", a file or a folder of .txt
    field: str = "text"  # of a row
    only: str = ""  # "key=value": only rows with that
    limit: int | None = None  # only the first N documents
    joined: bool = False  # all rows are one document, a blank line between them

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit}: expected 1 or more, or none for all")
        if self.only and "=" not in self.only:
            raise ValueError(f"only={self.only!r}: expected key=value, for example meta.pile_set_name=Pile-CC")


def load_documents(source: TextSource, paths: PathsConfig) -> list[str]:
    """Reads the documents; blank ones are left out.

    Raises:
        ValueError: nothing there, no rows, a row without the field (file and line named), a hub that can't be reached.
    """
    known = TEXT_SETS.get(source.where)
    only, joined = source.only or (known.where if known else ""), source.joined or bool(known and known.joined)
    texts: list[str] = []
    for place, row in _rows(source, known, paths):
        if only and not _has(row, *only.split("=", 1)):
            continue
        text = row.get(source.field)
        if not isinstance(text, str):
            raise ValueError(f"{place}: {source.field} is {text!r}; expected text (name another column by --field)")
        if text.strip():
            texts.append(text)
        if source.limit is not None and len(texts) == source.limit:
            break
    if not texts:
        raise ValueError(f"{source.where}: holds no text" + (f" with {only}" if only else ""))
    return ["\n\n".join(texts)] if joined else texts


def texts_sha256(documents: list[str]) -> str:
    """A digest of the documents' text and order, wherever they came from."""
    return hashlib.sha256(json.dumps(documents, ensure_ascii=False).encode()).hexdigest()


def text_files(where: str, data_store: str | None) -> list[Path]:
    """The local files behind a source, in order; none for the hub or where nothing is."""
    if where.startswith(HUB):
        return []
    if where in TEXT_SETS:
        stored = [Path(data_store) / f"{where}{suffix}" for suffix in _FILE_SUFFIXES] if data_store else []
        return [path for path in stored if path.is_file()][:1]
    path = Path(where)
    return sorted(path.glob("*.txt")) if path.is_dir() else [path] * path.is_file()


def source_problem(where: str, data_store: str | None) -> str | None:
    """Why there is no text there, or None; the hub is not asked."""
    if where.startswith(HUB):
        parts = where.removeprefix(HUB).split(":")
        if len(parts) in (2, 3) and all(parts):
            return None
        return f"{where}: expected hub:ID:SPLIT or hub:ID:SUBSET:SPLIT, for example hub:wikitext:wikitext-2-raw-v1:test"
    files = text_files(where, data_store)
    if not files and where not in TEXT_SETS:
        return (
            f"{where}: no such file, and no folder with *.txt; named sets are {', '.join(TEXT_SETS)}, or hub:ID:SPLIT"
        )
    bad = [file for file in files if not file.name.lower().endswith(_FILE_SUFFIXES)]
    return f"{bad[0]}: unknown kind of file; there are: {', '.join(_FILE_SUFFIXES)}" if bad else None


def _rows(source: TextSource, known: TextSet | None, paths: PathsConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    if problem := source_problem(source.where, paths.data_store):
        raise ValueError(problem)
    files = text_files(source.where, paths.data_store)
    if not files:
        yield from _hub_rows(known.hub if known else source.where)
    for file in files:
        name = file.name.lower()
        if name.endswith(".txt"):
            yield str(file), {source.field: _read_text(file)}
        elif name.endswith(_PACKED_SUFFIXES):
            yield from _packed_rows(file)
        else:
            yield from ((f"{file}, line {line}", row) for line, row in read_file(file))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}): save the file as UTF-8") from error


def _packed_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reads a compressed .jsonl file, such as the Pile's own files."""
    import pyarrow

    try:
        with gzip.open(file) if file.suffix == ".gz" else pyarrow.input_stream(str(file), compression="zstd") as stream:
            for number, line in enumerate(_lines(stream), start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("expected an object a line")
                yield f"{file}, line {number}", row
    except (OSError, EOFError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: can't be unpacked into JSON lines ({error}); fetch the file again") from error


def _lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _hub_rows(where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Streams the rows, so that a limit on a large set downloads no more than it needs."""
    from datasets import load_dataset

    hub_id, *subset, split = where.removeprefix(HUB).split(":")
    try:
        rows = load_dataset(hub_id, *subset, split=split, streaming=True)
        for number, row in enumerate(rows):
            yield f"{hub_id} {split}, row {number}", dict(row)
    except OSError as error:  # not found, offline, no connection
        raise ValueError(
            f"{where}: the hub can't serve it ({type(error).__name__}: {str(error).splitlines()[0]}); run where "
            f"it can be reached, or give a local file (for a named set: NAME.jsonl in the data store)"
        ) from error


def _has(row: dict[str, Any], key: str, value: str) -> bool:
    field: Any = row
    for part in key.split("."):
        if not isinstance(field, dict) or part not in field:
            return False
        field = field[part]
    return str(field) == value
