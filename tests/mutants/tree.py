"""A copy of the tree in which mutations are tried, and what was found in it before."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import conftest  # noqa: F401  sets the environment that tests expect, before torch reads it
from tests.mutants.mutations import Mutation

Lines = Mapping[tuple[str, int], set[str]]  # file, line -> tests

KILLED, SURVIVED, NOT_REACHED = "killed", "survived", "no test runs it"
OWN = ("harness", "sweeps", "eval", "analysis", "tests", "benchmarks")
PRELOADED = (
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors", "tokenizers", "datasets", "numpy"),
    *("scipy", "pandas", "pyarrow", "sqlalchemy", "hypothesis", "numba", "evalica", "omegaconf", "hydra", "jinja2"),
)
FAST = ("-m", "not slow and not gpu", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
GRACE_SECONDS = 60.0  # beyond 5 times what the tests took: then a mutation hangs, and that is noticed


class Recorder:
    """A pytest plugin: which lines each test runs, how long it takes, which failed."""

    def __init__(self, coverage: Any = None) -> None:
        self.coverage, self.seconds, self.failed = coverage, dict[str, float](), list[str]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        began = time.monotonic()
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


class Tree:
    """The copy, its tests by line, and the outcomes so far.

    Args:
        root: the checkout; only read.
        folder: of the copy and the records.
        tests: files or folders to choose tests from; none: those that name the mutated package.
    """

    def __init__(self, root: Path, folder: Path, tests: Sequence[str]) -> None:
        self.root, self.folder, self.copy, self.tests = root, folder, folder / "tree", tests
        self._take_copy()
        self.records = folder / "outcomes.jsonl"
        lines = self.records.read_text().splitlines() if self.records.is_file() else []
        self.known = {(r["key"], r["version"]): r["outcome"] for r in map(json.loads, lines)}
        self.maps: dict[str, tuple[Lines, dict[str, float]]] = {}
        self.seconds: dict[str, float] = {}  # of tests
        for kept in folder.glob("map-*.json"):
            self._preload(json.loads(kept.read_text())["modules"])

    def outcome(self, mutation: Mutation, tests: Sequence[str] | None = None) -> str:
        """Whether a test notices it.

        Args:
            mutation: which.
            tests: files or ids, in their order; None: those that run the statement.
        """
        source = _digest([self.root / mutation.file])
        tests = self._tests_of(mutation) if tests is None else tests
        files = _digest([self.root / name for name in sorted({test.split("::")[0] for test in tests})])
        of_tests = hashlib.sha256(json.dumps([source, tests, files]).encode()).hexdigest()[:16]
        for version in (source, of_tests):
            if (mutation.key, version) in self.known:
                return self.known[mutation.key, version]
        outcome, by = self._run(mutation, tests) if tests else (NOT_REACHED, None)
        version = source if outcome == KILLED else of_tests
        self.known[mutation.key, version] = outcome
        with self.records.open("a") as file:
            file.write(json.dumps({"key": mutation.key, "version": version, "outcome": outcome, "by": by}) + "\n")
        return outcome

    def _take_copy(self) -> None:
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=self.root, check=True, capture_output=True, text=True).stdout.split("\0")
        names = [name for name in names if name and (self.root / name).is_file()]
        for path in sorted(self.copy.rglob("*.py")):
            if str(path.relative_to(self.copy)) not in names:
                path.unlink()
        for name in names:
            ours, theirs = self.root / name, self.copy / name
            if not theirs.is_file() or theirs.read_bytes() != ours.read_bytes():
                theirs.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ours, theirs)
        for beside, link in (
            (self.root / ".cache", self.copy / ".cache"),
            (self.root.parent / "shared", self.folder / "shared"),
        ):
            if beside.exists() and not link.is_symlink():
                link.symlink_to(beside)

    def _tests_of(self, mutation: Mutation) -> list[str]:
        """Those that run the statement, the quickest first; for one that runs at import those that run its file."""
        lines, seconds = self._map(mutation.file)
        tests = {test for line in mutation.statement for test in lines.get((mutation.file, line), ())}
        if "" in tests:  # at import
            tests = {test for (file, _), names in lines.items() if file == mutation.file for test in names} or set(
                seconds
            )
        return sorted(tests - {""}, key=lambda test: (seconds[test], test))

    def _map(self, file: str) -> tuple[Lines, dict[str, float]]:
        """-> the tests of each line and their seconds; each test file is measured once, for all of a package."""
        package = file.rsplit("/", 1)[0]
        if package not in self.maps:
            kept = self.folder / f"map-{package.replace('/', '-')}.json"
            found = json.loads(kept.read_text()) if kept.is_file() else {"product": "", "files": {}, "modules": []}
            product = _digest(sorted(path for own in OWN[:4] for path in (self.copy / own).rglob("*.py")))
            chosen = {str(path.relative_to(self.copy)): _digest([path]) for path in self._files_for(package)}
            same = found["product"] == product
            of_files = {name: of for name, of in found["files"].items() if same and chosen.get(name) == of["version"]}
            if new := sorted(set(chosen) - set(of_files)):
                print(f"{package}: running {len(new)} test files once, for their lines", flush=True)
                fresh = self.folder / "fresh.json"
                fresh.unlink(missing_ok=True)
                self._forked(lambda: _measure(self.copy, package, new, fresh), timeout=7200)
                measured = json.loads(fresh.read_text())
                if measured["failed"]:
                    raise SystemExit(f"these fail without a mutation: {', '.join(measured['failed'])}")
                of_files |= {name: {"version": chosen[name], **_of_file(measured, name)} for name in new}
                found = {"product": product, "files": of_files, "modules": measured["modules"]}
                kept.write_text(json.dumps(found))
            self.maps[package] = _merged(found["files"].values())
            self.seconds |= self.maps[package][1]
            self._preload(found["modules"])
        return self.maps[package]

    def _files_for(self, package: str) -> list[Path]:
        if self.tests:
            named = [self.copy / name for name in self.tests]
            return sorted(p for path in named for p in (path.rglob("test_*.py") if path.is_dir() else [path]))
        mirror, dotted = self.copy / "tests/unit" / package, package.replace("/", ".") + "."
        every = sorted((self.copy / "tests").rglob("test_*.py"))
        return [path for path in every if path.is_relative_to(mirror) or dotted in path.read_text()]

    def _preload(self, modules: Sequence[str]) -> None:
        """Imports what tests take from elsewhere; every fork has it."""
        for name in modules:
            if name.split(".")[0] in PRELOADED and name not in sys.modules:
                try:
                    importlib.import_module(name)
                except Exception:  # what its parent alone may import is imported with that
                    continue

    def _run(self, mutation: Mutation, tests: Sequence[str]) -> tuple[str, str | None]:
        path, failed = self.copy / mutation.file, self.folder / "failed.txt"
        failed.unlink(missing_ok=True)
        kept = path.read_bytes()
        seconds = sum(self.seconds.get(test, GRACE_SECONDS) for test in tests)
        try:
            path.write_text(mutation.text)
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()
            status = self._forked(lambda: _test(tests, failed), timeout=GRACE_SECONDS + 5 * seconds)
        finally:
            path.write_bytes(kept)
        if status == 0:
            return SURVIVED, None
        if status in (4, 5, 99):  # pytest's usage error and "no tests", and our own
            raise SystemExit(f"{mutation.key}: no tests could be run ({', '.join(tests)}): {self.folder / 'last.log'}")
        return KILLED, failed.read_text() if failed.is_file() else "time-out" if status is None else "import"

    def _forked(self, work: Callable[[], int], timeout: float) -> int | None:
        """-> the exit status of `work` in a forked process, in the copy; None: it was killed after the time-out."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                os.setsid()
                log = os.open(self.folder / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.chdir(self.copy)
                sys.path[:] = [str(self.copy), *(p for p in sys.path if p not in ("", str(self.root)))]
                os.environ["PYTHONPATH"] = str(self.copy)
                for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
                    del sys.modules[name]
                status = work()
            finally:
                os._exit(status)
        deadline = time.monotonic() + timeout
        while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.killpg(pid, 9)
                os.waitpid(pid, 0)
                return None
            time.sleep(0.02)
        return os.waitstatus_to_exitcode(done[1])


def _measure(copy: Path, package: str, tests: Sequence[str], out: Path) -> int:
    """Runs tests under coverage and writes what they run."""
    from coverage import Coverage

    measured = Coverage(data_file=None, include=[f"{copy / package}/*"], config_file=False)
    recorder = Recorder(measured)
    measured.start()
    pytest.main([*FAST, *tests], plugins=[recorder])
    measured.stop()
    data = measured.get_data()
    lines = [
        (str(Path(file).relative_to(copy)), line, names)
        for file in data.measured_files()
        for line, names in data.contexts_by_lineno(file).items()
    ]
    modules = [name for name in list(sys.modules) if name.split(".")[0] in PRELOADED]
    found = {"lines": lines, "seconds": recorder.seconds, "failed": recorder.failed, "modules": modules}
    out.write_text(json.dumps(found))
    return 0


def _of_file(measured: dict[str, Any], name: str) -> dict[str, Any]:
    """What one test file's tests run; "" stands for what is run at import."""
    own = {test: seconds for test, seconds in measured["seconds"].items() if test.split("::")[0] == name}
    kept = own.keys() | {""}
    lines = [(file, line, [test for test in tests if test in kept]) for file, line, tests in measured["lines"]]
    return {"seconds": own, "lines": [one for one in lines if one[2]]}


def _merged(of_files: Iterable[dict[str, Any]]) -> tuple[Lines, dict[str, float]]:
    lines, seconds = defaultdict[tuple[str, int], set[str]](set), dict[str, float]()
    for of in of_files:
        seconds |= of["seconds"]
        for file, line, names in of["lines"]:
            lines[file, line].update(names)
    return lines, seconds


def _test(tests: Sequence[str], failed: Path) -> int:
    sys.dont_write_bytecode = True
    recorder = Recorder()
    status = pytest.main([*FAST, "-x", "--tb=no", *tests], plugins=[recorder])
    if recorder.failed:
        failed.write_text(recorder.failed[0])
    return int(status)


def _digest(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]
