"""Verdict files as other programs write them: each is read as its plain CSV, or refused by what it is."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.verdicts.columns import VerdictError
from eval.verdicts.table import Verdicts, load_verdicts, to_matches

ARENA = [{"question_id": n, "model_a": "x", "model_b": "y", "winner": won} for n, won in enumerate(("model_a", "tie"))]
FASTCHAT = [{"question_id": 81, "model_1": "x", "model_2": "y", "g1_winner": "model_1", "g2_winner": "tie", "turn": 2}]
ALPACA = [
    {"instruction": f"do {n}", "output_1": "a\nb", "generator_1": "x", "generator_2": "y", "preference": value}
    for n, value in enumerate((1.0, 2.0, 1.5, "nan", ""))
]
PLAIN = "question_id,system_a,system_b,verdict\n"


def table(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def told(verdicts: Verdicts) -> list[tuple[str, str, int, int]]:
    """Who was shown first, who second, the verdict and the turn of each row."""
    names = verdicts.system_names
    columns = zip(verdicts.first, verdicts.second, verdicts.verdict, verdicts.turn, strict=True)
    return [(names[one], names[two], int(verdict), int(turn)) for one, two, verdict, turn in columns]


@pytest.mark.parametrize("rows", [ARENA, FASTCHAT, ALPACA])
@pytest.mark.parametrize("kind", ["csv", "CSV.GZ", "tsv", "parquet"])
def test_a_table_says_what_its_json_says(tmp_path: Path, rows: list[dict[str, Any]], kind: str) -> None:
    (tmp_path / "v.json").write_text(json.dumps(rows))
    path = tmp_path / f"v.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "preference": str(row.get("preference"))} for row in rows]), path)
        if rows is not ALPACA:
            pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "tsv":
        path.write_text("\t".join(rows[0]) + "\n" + "".join(_tabbed(row) for row in rows))
    else:
        text = table(rows).encode()
        path.write_bytes(gzip.compress(text) if kind == "CSV.GZ" else text)
    assert told(load_verdicts([path])) == told(load_verdicts([tmp_path / "v.json"]))


def _tabbed(row: dict[str, Any]) -> str:
    return "\t".join(str(value).replace("\n", " ") for value in row.values()) + "\n"


def test_the_orders_and_turns_of_a_fastchat_table(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(table(FASTCHAT))
    assert told(load_verdicts([tmp_path / "v.csv"])) == [("x", "y", 1, 2), ("y", "x", 3, 2)]
    (tmp_path / "v.csv").write_text(table([*FASTCHAT, *FASTCHAT]))
    with pytest.raises(VerdictError, match=r"v.csv line 3 repeats .*v.csv line 2"):
        load_verdicts([tmp_path / "v.csv"])


def test_the_preferences_of_an_alpacaeval_table(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(table(ALPACA))
    assert load_verdicts([tmp_path / "v.csv"]).verdict.tolist() == [1, 2, 3, -1, -1]


@pytest.mark.parametrize("column", ["rater", "rater_slot"])
def test_raters_of_json_are_counted_as_those_of_a_csv(tmp_path: Path, column: str) -> None:
    rows = [
        {"question_id": 1, "system_a": "x", "system_b": "y", "verdict": n, column: who}
        for n, who in ((1, 7), (1, 8), (2, "z"))
    ]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "v.csv").write_text(table(rows))
    for name in ("v.jsonl", "v.csv"):
        found = load_verdicts([tmp_path / name])
        assert found.rater.values == ["7", "8", "z"]
        assert to_matches(found).half_points.tolist() == [2], "one match, won by two of three"


def test_json_with_two_columns_of_raters_is_refused(tmp_path: Path) -> None:
    row = {"question_id": 1, "system_a": "x", "system_b": "y", "verdict": 1, "rater": "a", "rater_slot": 1}
    (tmp_path / "v.json").write_text(json.dumps([row]))
    with pytest.raises(VerdictError, match="entry 1: has both rater and rater_slot"):
        load_verdicts([tmp_path / "v.json"])


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), (True, False), (1.0, 0.0)])
def test_marks_of_who_won(tmp_path: Path, yes: Any, no: Any) -> None:
    rows = [
        {
            **{"id": n, "model_a": "x", "model_b": "y"},
            **dict(zip(("winner_model_a", "winner_model_b", "winner_tie"), won, strict=True)),
        }
        for n, won in enumerate(((yes, no, no), (no, yes, no), (no, no, yes)))
    ]
    (tmp_path / "v.csv").write_text(table(rows))
    (tmp_path / "v.json").write_text(json.dumps(rows))
    for name in ("v.csv", "v.json"):
        assert load_verdicts([tmp_path / name]).verdict.tolist() == [1, 2, 3]
    (tmp_path / "v.json").write_text(json.dumps([{**rows[0], "winner_tie": "perhaps"}]))
    with pytest.raises(VerdictError, match="entry 1: verdict is None"):
        load_verdicts([tmp_path / "v.json"])


def test_long_cells_and_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    cell, long = "x" * 150_000, "x" * 3_000_000  # beyond what Python's csv and a block of Arrow take by default
    path.write_text(f"text,{PLAIN}{long},1,A,B,1\n{long},2,A,B,2\n")
    assert load_verdicts([path]).verdict.tolist() == [1, 2]
    path.write_text(f"text,{PLAIN}{cell},1,A,B,1\n{cell},2,A,B,9\n")
    with pytest.raises(VerdictError, match=r"line 3: verdict '9'; expected .*; -1 where nobody decided"):
        load_verdicts([path])
    path.write_text(f"text,{PLAIN}{cell},1,A,B,1\n{cell},2,A\n")
    with pytest.raises(VerdictError, match="line 3: 3 fields, the header has 5"):
        load_verdicts([path])


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("v.xlsx", b"PK\x03\x04..", "a spreadsheet or a zip file: save it as CSV"),
        ("v.json", b"PAR1....", "a Parquet file: name it .parquet"),
        ("v.csv", gzip.compress(PLAIN.encode(), mtime=0), "a gzip file: name it .gz"),
        ("v.csv", PLAIN.encode("utf-16"), "text in UTF-16: save it as UTF-8"),
        ("v.csv", b"SQLite format 3\0", "a database: export its rows"),
        ("v.txt", PLAIN.encode(), "line 1: not JSON .*; a table is known by its name, .csv or .tsv"),
        ("v.csv", b"model_a,model_b,winner\nx,y,tie\n", "no column question_id; .*number the rows"),
        ("v.json", b'[{"model_a": "x", "model_b": "y", "winner": "tie"}]', "entry 1: no question_id.*number the rows"),
        (
            "s.json",
            b'[{"question_id": 1, "system": "x", "score_candidate": 7}]',
            "entry 1: a ten-point score, .* from a CSV",
        ),
        ("v.parquet", b"question_id", "broken parquet file"),
        ("grades.csv", b"question_id,system,grade\n1,x,7\n", "grades of single answers.*; take graded_verdicts.csv"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VerdictError, match=kind):
        load_verdicts([tmp_path / name])


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    for name in ("v.csv", "v.json", "v.parquet"):
        with pytest.raises(VerdictError, match=f"{name}: no such file"):
            load_verdicts([tmp_path / name])


def test_a_bad_row_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text(PLAIN + "1,A,B,1\n,,,1\n")
    with pytest.raises(VerdictError) as error:
        load_verdicts([tmp_path / "v.csv"])
    assert str(error.value).count("line 3") == 1
    assert "question_id is empty, system_a is empty" in str(error.value)
