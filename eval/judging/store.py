"""Stores the judgments of a tournament in one SQLite file, each at the moment when it arrives.

Tables of `judgments.sqlite`:
  judges      a judge's name and settings, keyed by the hash of both
  matches     what a match's prompt is now: a tournament whose answers changed keeps its old judgments and
              exports the new ones; the matches of each benchmark (set of questions) stand beside one another
  judgments   keyed by (settings hash, prompt hash), so that nothing is paid for twice
  batches     what was handed to a server's Batch API, and batch_requests what is in each (`eval.judges.batch_store`)
  calls       every request to a paid judge: reserved before it is sent, settled when it is answered; one that
              was killed in between counts with what it could have cost

WAL does not work on network file systems: keep a tournament on a local disk while it is judged.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from eval.judging.grades import graded_verdicts
from eval.judging.injection import FlaggedWins, flagged_wins
from eval.judging.matches import Judge, Judgment, Match
from eval.judging.parse import read_anew
from eval.judging.prompts import Mode, hash_text
from eval.verdicts.files import GRADED_VERDICTS_FILE
from harness.files.atomic import csv_text, write_atomically

DATABASE = "judgments.sqlite"
VERDICTS_FILE = "verdicts.csv"
SCORES_FILE = "scores.csv"
GRADES_FILE = "grades.csv"
VERDICT_COLUMNS = ("question_id", "system_a", "system_b", "verdict", "judge")
BENCHMARK_COLUMN = "benchmark"  # of exported files, where the tournament has several
BUSY_SECONDS = 30.0

MATCHES = """CREATE TABLE IF NOT EXISTS matches (
    judge TEXT NOT NULL, mode TEXT NOT NULL, question_id TEXT NOT NULL, system_a TEXT NOT NULL,
    system_b TEXT NOT NULL, settings_sha256 TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, benchmark TEXT NOT NULL,
    PRIMARY KEY (judge, mode, benchmark, question_id, system_a, system_b)) WITHOUT ROWID"""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS judges (
    settings_sha256 TEXT PRIMARY KEY, name TEXT NOT NULL, settings TEXT NOT NULL, created TEXT NOT NULL);
{MATCHES};
CREATE TABLE IF NOT EXISTS judgments (
    settings_sha256 TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, judge TEXT NOT NULL, question_id TEXT NOT NULL,
    system_a TEXT NOT NULL, system_b TEXT NOT NULL, verdict INTEGER NOT NULL CHECK (verdict IN (1, 2, 3, -1)),
    score_a REAL, score_b REAL, raw_text TEXT, logprobs TEXT, reason TEXT, num_prompt_tokens INTEGER,
    num_completion_tokens INTEGER, cost_usd REAL, latency_seconds REAL, created TEXT NOT NULL,
    flags_a TEXT, flags_b TEXT, PRIMARY KEY (settings_sha256, prompt_sha256));
CREATE TABLE IF NOT EXISTS calls (
    call_id INTEGER PRIMARY KEY, judge TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, reserved_usd REAL NOT NULL,
    cost_usd REAL, outcome TEXT, started TEXT NOT NULL, finished TEXT);
"""
ADDED_COLUMNS = ("flags_a TEXT", "flags_b TEXT")  # to `judgments`, which older files have without them
LIST_FIELDS = ("logprobs", "flags_a", "flags_b")  # kept as JSON
JUDGMENT_FIELDS = tuple(field.name for field in fields(Judgment))


class JudgmentStore:
    """The judgments of one tournament folder. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Opens or makes `folder`/judgments.sqlite.

        Raises:
            ValueError: the file is no database.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._settlements: dict[str, tuple[int, str, float | None]] = {}  # by prompt, of judgments about to be stored
        self._db = sqlite3.connect(folder / DATABASE, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
            self._add_columns()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{folder / DATABASE}: {error}; move the file away or name another tournament") from error

    def _add_columns(self) -> None:
        there = {row[1] for row in self._db.execute("PRAGMA table_info(judgments)")}
        for column in ADDED_COLUMNS:
            if column.split()[0] not in there:
                self._db.execute(f"ALTER TABLE judgments ADD COLUMN {column}")
        self._db.execute("BEGIN IMMEDIATE")
        if BENCHMARK_COLUMN not in {row[1] for row in self._db.execute("PRAGMA table_info(matches)")}:
            self._db.execute("ALTER TABLE matches RENAME TO older_matches")
            self._db.execute(MATCHES)
            self._db.execute("INSERT INTO matches SELECT *, 'open' FROM older_matches")
            self._db.execute("DROP TABLE older_matches")
        self._db.execute("COMMIT")

    def __enter__(self) -> "JudgmentStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """The database, for `eval.judges.batch_store`; every statement commits by itself."""
        return self._db

    def register(self, judge: Judge, mode: str, matches: Sequence[Match], benchmark: str = "open") -> list[str]:
        """Records the judge and which prompt each match has now. -> the matches' prompt hashes, in order.

        The judge's other matches of this mode and benchmark, of systems or questions that are no longer asked for,
        leave the tournament; their judgments were paid for and stay, should they be asked for again.
        """
        key = settings_sha256(judge)
        hashes = [judge.prompt_sha256(match) for match in matches]
        rows = [(judge.name, mode, *m.key, key, digest, benchmark) for m, digest in zip(matches, hashes, strict=True)]
        place = (judge.name, mode, benchmark)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "INSERT OR IGNORE INTO judges VALUES (?, ?, ?, ?)",
            (key, judge.name, json.dumps(dict(judge.settings), sort_keys=True), _now()),
        )
        self._db.execute("DELETE FROM matches WHERE judge = ? AND mode = ? AND benchmark = ?", place)
        self._db.executemany("INSERT OR REPLACE INTO matches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")
        return hashes

    def num_leaving(self, judge: str, mode: str, matches: Sequence[Match], benchmark: str) -> int:
        """How many matches `register` would take out of the tournament."""
        found = self._db.execute(
            "SELECT question_id, system_a, system_b FROM matches WHERE judge = ? AND mode = ? AND benchmark = ?",
            (judge, mode, benchmark),
        )
        return len(set(found) - {match.key for match in matches})

    def judged(self, judge: Judge, but_unparsed: bool = False) -> set[str]:
        """The hashes of the prompts that this judge, under these settings, has judged.

        Args:
            judge: whose.
            but_unparsed: leave out those whose reply could not be read.
        """
        found = self._db.execute(
            "SELECT prompt_sha256 FROM judgments WHERE settings_sha256 = ? AND (verdict != -1 OR NOT ?)",
            (settings_sha256(judge), but_unparsed),
        )
        return {row[0] for row in found}

    def by_prompt(self, judge: Judge) -> dict[str, Judgment]:
        """All that this judge, under these settings, has judged: prompt hash -> judgment."""
        found = self._db.execute(
            f"SELECT {', '.join(JUDGMENT_FIELDS)} FROM judgments WHERE settings_sha256 = ?", (settings_sha256(judge),)
        )
        return {judgment.prompt_sha256: judgment for judgment in map(_judgment, found)}

    def reparse(self, judge: Judge, mode: Mode) -> int:
        """Reads this judge's stored replies anew, all or none. -> how many judgments changed."""
        key, changed = settings_sha256(judge), 0
        self._db.execute("BEGIN IMMEDIATE")
        rows = self._db.execute(
            f"SELECT {', '.join(JUDGMENT_FIELDS)} FROM judgments WHERE settings_sha256 = ?", (key,)
        ).fetchall()
        for before in map(_judgment, rows):
            now = read_anew(before, mode)
            if now != before:
                changed += 1
                self._db.execute(
                    "UPDATE judgments SET verdict = ?, score_a = ?, score_b = ?, reason = ? "
                    "WHERE settings_sha256 = ? AND prompt_sha256 = ?",
                    (now.verdict, now.score_a, now.score_b, now.reason, key, now.prompt_sha256),
                )
        self._db.execute("COMMIT")
        return changed

    def settle_when_stored(self, prompt_sha256: str, call_id: int, outcome: str, cost_usd: float | None) -> None:
        """Has a call settled in the transaction that stores its judgment, which has to come next."""
        self._settlements[prompt_sha256] = (call_id, outcome, cost_usd)

    def add(self, judge: Judge, judgment: Judgment) -> None:
        """Keeps a judgment and settles its call; both survive a kill -9 once this returns, or neither is done.

        A verdict that is there already stays as it was; one that could not be read gives way.
        """
        values = dict(zip(JUDGMENT_FIELDS, astuple(judgment), strict=True))
        values |= {name: None if values[name] is None else json.dumps(values[name]) for name in LIST_FIELDS}
        values |= {"settings_sha256": settings_sha256(judge), "judge": judge.name, "created": _now()}
        columns = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        updates = ", ".join(f"{name} = excluded.{name}" for name in values)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            f"INSERT INTO judgments ({columns}) VALUES ({marks}) ON CONFLICT (settings_sha256, prompt_sha256) "
            f"DO UPDATE SET {updates} WHERE judgments.verdict = -1",
            values,
        )
        settlement = self._settlements.pop(judgment.prompt_sha256, None)
        if settlement is not None:
            self.settle(*settlement)
        self._db.execute("COMMIT")

    def judgments(
        self, judge: str | None = None, mode: str = "pairwise", benchmark: str | None = None
    ) -> list[tuple[str, Judgment]]:
        """(judge, judgment) of every match as its prompt is now, ordered by judge, question and systems.

        Args:
            judge: of this judge only.
            mode: `pairwise`, `relative` or `single`.
            benchmark: of this set of questions only.
        """
        return _current(self._db, judge, mode, benchmark)

    def benchmarks(self) -> list[str]:
        """The sets of questions that the tournament has matches of, sorted."""
        return [row[0] for row in self._db.execute("SELECT DISTINCT benchmark FROM matches ORDER BY benchmark")]

    def reserve(self, judge: str, prompt_sha256: str, reserved_usd: float) -> int:
        """Books a call before it is sent, at the most that it can cost. -> its id."""
        cursor = self._db.execute(
            "INSERT INTO calls (judge, prompt_sha256, reserved_usd, started) VALUES (?, ?, ?, ?)",
            (judge, prompt_sha256, reserved_usd, _now()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def settle(self, call_id: int, outcome: str, cost_usd: float | None) -> None:
        """Books what came of a call; None where its cost isn't known, so that its reservation stands."""
        self._db.execute(
            "UPDATE calls SET cost_usd = ?, outcome = ?, finished = ? WHERE call_id = ?",
            (cost_usd, outcome, _now(), call_id),
        )

    def spent_usd(self) -> float:
        """US dollars that all calls of this tournament have cost, or may have cost."""
        row = self._db.execute("SELECT COALESCE(SUM(COALESCE(cost_usd, reserved_usd)), 0) FROM calls").fetchone()
        return float(row[0])

    def unknown_usd(self) -> float:
        """The part of `spent_usd` that no bill is known for: calls under way, or failed on the way, at their most."""
        row = self._db.execute("SELECT COALESCE(SUM(reserved_usd), 0) FROM calls WHERE cost_usd IS NULL").fetchone()
        return float(row[0])

    def export_verdicts(self) -> Path:
        """Writes verdicts.csv: one row a match and judge, in the layout that `python -m eval rate` reads."""
        return self._export(
            VERDICTS_FILE,
            VERDICT_COLUMNS,
            lambda benchmark: [
                (j.question_id, j.system_a, j.system_b, j.verdict, judge)
                for judge, j in self.judgments(benchmark=benchmark)
            ],
        )

    def _export(self, name: str, columns: Sequence[str], rows_of: Callable[[str], list[tuple[Any, ...]]]) -> Path:
        """Writes a file of each benchmark's rows, with a column that says which where there are several."""
        benchmarks = self.benchmarks()
        named = len(benchmarks) > 1
        rows = [row + (benchmark,) * named for benchmark in benchmarks for row in rows_of(benchmark)]
        path = self.folder / name
        write_atomically(path, csv_text((*columns, *([BENCHMARK_COLUMN] if named else [])), rows))
        return path

    def export_scores(self, judge: str, reference: str) -> Path:
        """Writes scores.csv: the ten-point scores relative to `reference`, -1 where none could be read."""
        columns = ("question_id", "system", "order", "score_candidate", "score_chatgpt")
        return self._export(SCORES_FILE, columns, partial(self._scores, judge, reference))

    def _scores(self, judge: str, reference: str, benchmark: str) -> list[tuple[Any, ...]]:
        rows = []
        for _, j in self.judgments(judge, "relative", benchmark):
            if reference not in (j.system_a, j.system_b):
                continue
            scores = [-1.0 if score is None else score for score in (j.score_a, j.score_b)]
            first = j.system_b == reference
            candidate = j.system_a if first else j.system_b
            order = "candidate_first" if first else "candidate_second"
            rows.append((j.question_id, candidate, order, *(f"{s:g}" for s in (scores if first else scores[::-1]))))
        return rows

    def export_grades(self) -> Path:
        """Writes grades.csv, a row an answer and judge; a grade that could not be read is an empty field."""
        return self._export(
            GRADES_FILE,
            ("question_id", "system", "grade", "judge", "reason"),
            lambda benchmark: [
                (j.question_id, j.system_a, "" if j.score_a is None else f"{j.score_a:g}", judge, j.reason or "")
                for judge, j in self.judgments(mode=Mode.single.value, benchmark=benchmark)
            ],
        )

    def export_graded_verdicts(self) -> Path:
        """Writes graded_verdicts.csv: who has the higher grade, in the layout that `python -m eval rate` reads."""
        return self._export(GRADED_VERDICTS_FILE, VERDICT_COLUMNS, self._graded)

    def _graded(self, benchmark: str) -> list[tuple[Any, ...]]:
        by_judge: dict[str, list[Judgment]] = {}
        for name, judgment in self.judgments(mode=Mode.single.value, benchmark=benchmark):
            by_judge.setdefault(name, []).append(judgment)
        found = {judge: graded_verdicts(judgments) for judge, judgments in by_judge.items()}
        return [(*item, verdict, judge) for judge, of in found.items() for item, verdict in sorted(of.items())]


def own_verdicts(folder: Path) -> list[Path]:
    """The file of a tournament's verdicts: of its pairs, else what follows from grades; none where it has neither."""
    places = (folder / VERDICTS_FILE, folder / GRADED_VERDICTS_FILE)
    return [path for path in places if path.is_file()][:1]


def recorded_judges(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> settings of the judges of a tournament; the newest of those that each was run with.

    Raises:
        ValueError: its database can't be read.
    """
    path = folder / DATABASE
    if not path.is_file():
        return {}
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            rows = database.execute("SELECT name, settings FROM judges ORDER BY created").fetchall()
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: {error}; move the file away, and the judge's settings are left out") from error
    return {name: json.loads(settings) for name, settings in rows}


def recorded_judgments(folder: Path) -> list[tuple[str, Judgment]]:
    """(judge, judgment) of every pair of answers as its prompt is now; none where a file is of a time without flags.

    Raises:
        ValueError: its database can't be read.
    """
    path = folder / DATABASE
    if not path.is_file():
        return []
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            there = {row[1] for row in database.execute("PRAGMA table_info(judgments)")}
            if not there.issuperset(JUDGMENT_FIELDS):
                return []
            return _current(database, None, Mode.pairwise.value, None)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: {error}; move the file away, and what judges wrote is left out") from error


def recorded_flags(judgments: Iterable[tuple[str, Judgment]]) -> dict[str, FlaggedWins]:
    """Judge -> how often flagged answers win before it; of judgments that say what their answers hold."""
    by_judge: dict[str, list[Judgment]] = {}
    for judge, judgment in judgments:
        by_judge.setdefault(judge, []).append(judgment)
    return {judge: flagged_wins(found) for judge, found in by_judge.items()}


def settings_sha256(judge: Judge) -> str:
    """A hash that identifies a judge with its settings."""
    return hash_text(json.dumps([judge.name, dict(judge.settings)], sort_keys=True))


def _current(
    database: sqlite3.Connection, judge: str | None, mode: str, benchmark: str | None
) -> list[tuple[str, Judgment]]:
    """(judge, judgment) of every match as its prompt is now. A file of an older version has one benchmark."""
    columns = [f"m.{c}" if c in ("question_id", "system_a", "system_b") else f"j.{c}" for c in JUDGMENT_FIELDS]
    found = database.execute(
        f"SELECT m.judge, {', '.join(columns)} FROM matches m JOIN judgments j "
        "USING (settings_sha256, prompt_sha256) WHERE m.mode = ? AND (? IS NULL OR m.judge = ?) "
        f"{'' if benchmark is None else 'AND m.benchmark = ? '}"
        "ORDER BY m.judge, m.question_id, m.system_a, m.system_b",
        (mode, judge, judge, *([] if benchmark is None else [benchmark])),
    )
    return [(name, _judgment(values)) for name, *values in found]


def _judgment(values: Sequence[Any]) -> Judgment:
    row: Mapping[str, Any] = dict(zip(JUDGMENT_FIELDS, values, strict=True))
    lists = {name: None if row[name] is None else tuple(json.loads(row[name])) for name in LIST_FIELDS}
    return Judgment(**{**row, **lists})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
