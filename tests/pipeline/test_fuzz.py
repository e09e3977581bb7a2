"""Damaged files: every reader ends well or with a message that names the file, never with a stack trace.

Hypothesis draws what is damaged, the same examples each time; `HARNESS_FUZZ_EXAMPLES=5000` draws more. A damage is a
change of bytes, or of one value of a JSON document or cell of a table.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from analysis.__main__ import app as analysis_app
from eval.__main__ import app as eval_app
from eval.judging.parse import parse_scores, parse_verdict
from harness.data.__main__ import main as data_main
from sweeps.__main__ import app as sweeps_app
from tests.records.reports import make_run, make_spec, make_verdicts, ratings_json

EXAMPLES = int(os.environ.get("HARNESS_FUZZ_EXAMPLES", "30"))
LABEL = "smollm2-concise-nf4"
VALUES = [
    *(None, True, "", " ", [], {}, [[]], {"a": None}, 0, -1, 10**30, -(10**400), 1e308, float("nan"), float("inf")),
    *("\ud800", "\x00", "a" * 200_000, "../../x", "${oc.env:HOME}", "=1+1", "[red]x[/]", "\uff11", "-0", "1e999"),
    *("9" * 5000, "{", '"', "\r", "\u2028", "\U0001d4b3", ["x", 1], {"": ""}),
]
BYTES = [
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b'"',
    b",",
    b"\n",
    b"\r",
    b"{",
    b"[" * 20_000,
    b"\\ud800",
    b"9" * 400,
]

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Damage:
    """Where, as a share of the file or of its values, and what comes there."""

    where: float
    value: Any
    data: bytes
    cut: int
    bytewise: bool

    def apply(self, path: Path) -> None:
        content = path.read_bytes()
        if not self.bytewise and path.suffix in (".json", ".jsonl", ".csv"):
            path.write_bytes(self._changed_value(content.decode(), path.suffix).encode("utf-8", "surrogatepass"))
            return
        at = int(self.where * len(content))
        path.write_bytes(content[:at] + self.data + content[at + self.cut :])

    def _changed_value(self, text: str, suffix: str) -> str:
        if suffix == ".json":
            return json.dumps(self._in_document(json.loads(text)))
        lines = text.splitlines()
        number = min(int(self.where * len(lines)), len(lines) - 1)
        if suffix == ".jsonl":
            lines[number] = json.dumps(self._in_document(json.loads(lines[number])))
        else:
            cells = lines[number].split(",")
            cells[int(self.where * 997) % len(cells)] = self.value if isinstance(self.value, str) else str(self.value)
            lines[number] = ",".join(cells)
        return "\n".join(lines) + "\n"

    def _in_document(self, document: Any) -> Any:
        places = list(_places(document))
        *path, last = places[int(self.where * 7919) % len(places)] or [None]
        if last is None:
            return self.value
        parent = document
        for key in path:
            parent = parent[key]
        parent[last] = self.value
        return document


def _places(value: Any, path: Sequence[Any] = ()) -> Any:
    yield list(path)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, [*path, key])


damages = st.builds(
    Damage,
    where=st.floats(0, 1, exclude_max=True),
    value=st.sampled_from(VALUES),
    data=st.sampled_from(BYTES) | st.binary(max_size=8),
    cut=st.sampled_from([0, 1, 3, 10**9]),
    bytewise=st.booleans(),
)
fuzzed = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def ends_well(app: Any, arguments: Sequence[str], damaged: Path, *others: str) -> None:
    """Status 0 or 1, or 2 with a message that names the file (or what it holds)."""
    result = CliRunner().invoke(app, list(arguments))
    if not (result.exception is None or isinstance(result.exception, SystemExit)):
        raise result.exception
    check(result.exit_code, result.stderr, damaged, *others)


def check(status: Any, said: str, damaged: Path, *others: str) -> None:
    assert status in (0, 1, 2, None), status
    if status == 2:
        assert any(name in said for name in (damaged.name, *others)), f"no word of {damaged.name}: {said[:500]}"
    assert len(said) < 50_000, "a message that nobody can read"


VERDICTS = "question_id,system_a,system_b,verdict,judge\n" + "".join(
    f"q{number},{one},{two},{1 + number % 3},gpt\n"
    for number in range(4)
    for one, two in (("ann", "bob"), ("bob", "ann"), ("ann", "cid"), ("cid", "bob"))
)


@fuzzed
@given(damage=damages)
def test_verdicts(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text(VERDICTS)
    damage.apply(path)
    ends_well(eval_app, ["rate", str(path), "--json", "--orderings", "20", "--resamples", "20"], path)


ARENA = [
    {"question_id": n, "model_a": "ann", "model_b": "bob", "winner": winner, "judge": "gpt-4", "turn": 1}
    for n, winner in enumerate(["model_a", "model_b", "tie", "tie (bothbad)", "model_a"])
]


@fuzzed
@given(damage=damages)
def test_verdicts_of_others(tmp_path: Path, damage: Damage) -> None:
    path = write_lines(tmp_path / "arena.jsonl", ARENA)
    damage.apply(path)
    ends_well(eval_app, ["rate", str(path), "--json", "--orderings", "20", "--resamples", "20"], path)


@fuzzed
@given(damage=damages)
def test_two_judges(tmp_path: Path, damage: Damage) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text(VERDICTS)
    two.write_text(VERDICTS)
    damage.apply(two)
    ends_well(eval_app, ["agree", str(one), str(two), "--json", "--resamples", "20"], two, "one.csv", "share", "match")


ROWS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [{"instruction": f"Say {n}.", "input": "", "output": f"{n}."} for n in range(4)],
    "chat": [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}] * 3,
    "sharegpt": [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}] * 3,
    "trees": [{"prompt": "Hi", "replies": [{"text": "Ho", "role": "assistant", "rank": 0, "replies": []}]}] * 2,
}


@pytest.mark.parametrize("kind", ROWS)
@fuzzed
@given(damage=damages)
def test_rows(tmp_path: Path, kind: str, damage: Damage) -> None:
    path = write_lines(tmp_path / "rows.jsonl", ROWS[kind])
    damage.apply(path)
    out, err = StringIO(), StringIO()
    status: Any = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            data_main([str(path), "--json"])
        except SystemExit as ended:
            status = ended.code
    check(status, err.getvalue(), path) if err.getvalue() else check(status, path.name, path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str]:
    """The files of a run and its tournament, by their paths. -> them, the run id"""
    folder = tmp_path_factory.mktemp("whole")
    run_id = make_run(folder / "runs", LABEL, make_spec("concise"), [2.0, 1.5, 1.2], 0.31)
    make_verdicts(folder / "tournament")
    (folder / "tournament" / "ratings.json").write_text(json.dumps(ratings_json()))
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}, run_id


@fuzzed
@given(damage=damages, which=st.integers(0, 10**6))
def test_report(tmp_path: Path, whole: tuple[dict[str, bytes], str], damage: Damage, which: int) -> None:
    files, run_id = whole
    damaged = lay_out(tmp_path, files, which)
    damage.apply(damaged)
    runs, tournament = tmp_path / "runs", tmp_path / "tournament"
    arguments = ["report", "--run-id", run_id, "--runs", str(runs), "--tournament", str(tournament)]
    ends_well(analysis_app, [*arguments, "--out", str(tmp_path / "out"), "--json"], damaged, run_id)


@fuzzed
@given(text=st.text(max_size=400) | st.sampled_from([v for v in VALUES if isinstance(v, str)]))
def test_replies_of_a_judge(text: str) -> None:
    assert parse_verdict(text).verdict in (1, 2, 3, -1)
    parse_scores(text)


def lay_out(folder: Path, files: dict[str, bytes], which: int) -> Path:
    """Writes all files anew. -> the one to damage"""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / sorted(files)[which % len(files)]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.symlink_to("nowhere")], ids=["folder", "link"]
)
def test_a_folder_or_a_dead_link_for_a_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "verdicts.csv"
    make(path)
    ends_well(eval_app, ["rate", str(path)], path)
    ends_well(eval_app, ["agree", str(path), str(path)], path)
    ends_well(sweeps_app, ["status", "--runs", str(path)], path)
