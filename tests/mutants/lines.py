"""Which tests run a line, and how long they take: measured once for each test file, by coverage's contexts."""

import hashlib
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.mutations import Mutation

PACKAGES = ("harness", "sweeps", "eval", "analysis")
PRELOADED = (
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors", "tokenizers", "datasets", "numpy"),
    *("scipy", "pandas", "pyarrow", "sqlalchemy", "hypothesis", "numba", "evalica", "omegaconf", "hydra", "jinja2"),
)
FAST = ("-m", "not slow and not gpu", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
MEASURE_SECONDS = 7200.0
AT_IMPORT = ""  # stands for a test where a line runs as its module is imported


class Recorder:
    """A pytest plugin: how long each test takes, which failed, and for coverage which one is running."""

    def __init__(self, coverage: Any = None) -> None:
        self.coverage, self.seconds, self.failed = coverage, dict[str, float](), list[str]()
        self._running = AT_IMPORT  # the test that is under way

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Around setup, call and teardown."""
        began, self._running = time.monotonic(), item.nodeid
        if self.coverage is not None:
            self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Any:
        """Around the making of a fixture: what several tests share counts for their whole file, whoever comes first."""
        if self.coverage is None or fixturedef.scope == "function":
            return (yield)
        self.coverage.switch_context(self._running.split("::")[0])
        try:
            return (yield)
        finally:
            self.coverage.switch_context(self._running)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of each phase."""
        if report.failed:
            self.failed.append(report.nodeid)


class Map:
    """The tests of every line, kept in a file.

    Args:
        copy: the root of the tree.
        path: of the file.
        chosen: test files or folders; none: those that name the mutated package, and those of its folder in tests/unit.
        forked: runs a function in a process of its own, within the tree.
    """

    def __init__(
        self, copy: Path, path: Path, chosen: Sequence[str], forked: Callable[[Callable[[], int], float], int | None]
    ) -> None:
        self.copy, self.path, self.chosen, self.forked = copy, path, chosen, forked
        found = json.loads(path.read_text()) if path.is_file() else {"tests": {}, "modules": []}
        self.measured: dict[str, dict[str, Any]] = found["tests"]  # test file -> versions, seconds, lines
        self.modules: list[str] = found["modules"]  # of other packages, imported by some test
        self._merged: dict[str, dict[int, set[str]]] = {}  # mutated file -> line -> tests

    def tests_of(self, mutation: Mutation) -> list[str]:
        """Those that run the statement, of the module's own test file and the quickest first.

        For a statement that runs at import these are all that run its file, and those of files that import it: what a
        test reads of a constant or a default runs no line. Where none is known to run it, those that enter its
        function: coverage's tracer loses the rest of a function that has run an event loop (Python 3.11).
        """
        lines = self._lines(mutation.file)
        tests = {test for line in mutation.statement for test in lines.get(line, ())}
        tests = tests or {test for line in mutation.function for test in lines.get(line, ())} - {AT_IMPORT}
        compiled = not tests and "@numba." in (self.copy / mutation.file).read_text()  # coverage sees no line of it
        if AT_IMPORT in tests or compiled:
            tests = {test for names in lines.values() for test in names} | self._importing(mutation.file)
        own = f"/test_{Path(mutation.file).name}"
        return sorted(tests - {AT_IMPORT}, key=lambda test: (own not in test, self.seconds(test), test))

    def _importing(self, file: str) -> set[str]:
        """The tests of files whose text names a module."""
        package, _, name = file.removesuffix(".py").replace("/", ".").rpartition(".")
        names = re.compile(rf"\b{re.escape(package)}\.{name}\b|from {re.escape(package)} import (.*\b)?{name}\b")
        importing = [test for test in self._files_for(file) if names.search((self.copy / test).read_text())]
        return {test for name in importing for test in self.measured[name]["seconds"]}

    def seconds(self, test: str) -> float:
        """Of a test, or of all in a file; 0 where it was not measured."""
        seconds = self.measured.get(test.split("::")[0], {}).get("seconds", {})
        return float(seconds[test] if "::" in test and test in seconds else sum(seconds.values()))

    def _lines(self, file: str) -> Mapping[int, set[str]]:
        if file not in self._merged:
            names = self._files_for(file)
            self._measure([name for name in names if not self._is_known(name, file)])
            lines = self._merged[file] = defaultdict(set)
            for name in names:
                tests = [*self.measured[name]["seconds"], AT_IMPORT, name]
                for line, places in self.measured[name]["lines"].get(file, ()):
                    lines[line].update(tests[place] for place in places)
        return self._merged[file]

    def _files_for(self, file: str) -> list[str]:
        if self.chosen:
            paths = [p for name in self.chosen for p in ((self.copy / name).rglob("test_*.py"), [self.copy / name])]
            return sorted({str(p.relative_to(self.copy)) for found in paths for p in found if p.is_file()})
        package = file.rpartition("/")[0]
        mirror, dotted = self.copy / "tests/unit" / package, package.replace("/", ".") + "."
        every = sorted((self.copy / "tests").rglob("test_*.py"))
        chosen = [path for path in every if path.is_relative_to(mirror) or dotted in path.read_text()]
        return [str(path.relative_to(self.copy)) for path in chosen]

    def _is_known(self, test_file: str, file: str) -> bool:
        """Whether neither has changed since."""
        versions = self.measured.get(test_file, {}).get("versions", {})
        return all(versions.get(name) == digest(self.copy / name) for name in (test_file, file))

    def _measure(self, names: Sequence[str]) -> None:
        """Runs test files under coverage.

        Raises:
            SystemExit: a test fails without a mutation.
        """
        if not names:
            return
        print(f"running {len(names)} test files once, for their lines", flush=True)
        out = self.path.with_name("measured.json")
        out.unlink(missing_ok=True)
        self.forked(lambda: _measured(self.copy, names, out), MEASURE_SECONDS)
        if not out.is_file():
            raise SystemExit(f"the tests could not be run: {self.path.with_name('last.log')}")
        found = json.loads(out.read_text())
        if found["failed"]:
            raise SystemExit(f"these fail without a mutation: {', '.join(found['failed'])}")
        self.measured |= found["tests"]
        self.modules = sorted({*self.modules, *found["modules"]})
        self.path.write_text(json.dumps({"tests": self.measured, "modules": self.modules}))


def digest(path: Path) -> str:
    """Of a file's content; of none where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def _measured(copy: Path, names: Sequence[str], out: Path) -> int:
    """Runs in a process of its own. Lines as places in the list of a file's tests, `AT_IMPORT` and the file."""
    from coverage import Coverage

    coverage = Coverage(data_file=None, include=[f"{copy / package}/*" for package in PACKAGES], config_file=False)
    recorder = Recorder(coverage)
    coverage.start()
    pytest.main([*FAST, *names], plugins=[recorder])
    coverage.stop()
    data = coverage.get_data()
    files = {str(Path(file).relative_to(copy)): data.contexts_by_lineno(file) for file in data.measured_files()}
    product = [path for package in PACKAGES for path in (copy / package).rglob("*.py")]  # what is not run, too
    versions = {str(path.relative_to(copy)): digest(path) for path in product}
    tests = {}
    for name in names:
        seconds = {test: spent for test, spent in recorder.seconds.items() if test.split("::")[0] == name}
        places = {test: place for place, test in enumerate([*seconds, AT_IMPORT, name])}
        lines = {
            file: [(line, [places[test] for test in found if test in places]) for line, found in by_line.items()]
            for file, by_line in files.items()
        }
        tests[name] = {"versions": versions | {name: digest(copy / name)}, "seconds": seconds, "lines": lines}
    modules = [module for module in list(sys.modules) if module.split(".")[0] in PRELOADED]
    out.write_text(json.dumps({"tests": tests, "failed": recorder.failed, "modules": modules}))
    return 0
