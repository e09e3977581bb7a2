"""A copy of the tree in which mutations are tried, and what was found in it before."""

import compileall
import gc
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import conftest  # noqa: F401  sets the environment that tests expect, before torch reads it
from tests.mutants.lines import FAST, PACKAGES, PRELOADED, Map, Recorder, digest
from tests.mutants.mutations import Mutation

KILLED, SURVIVED, NOT_REACHED = "killed", "survived", "no test runs it"
OWN = (*PACKAGES, "tests", "benchmarks")
GRACE_SECONDS = 60.0  # beyond 5 times what the tests took: then a mutation hangs, and that is noticed
UNKNOWN_SECONDS = 60.0  # what tests take that were not measured
USAGE_ERROR = 4  # of pytest, as is a chosen test whose file can't be imported, or is not in it
FAILED_TO_RUN = (3, USAGE_ERROR, 5, 99)  # pytest's internal and usage errors and "no tests", and our own


class Tree:
    """The copy, the tests of its lines, and the outcomes so far.

    Args:
        root: the checkout; only read.
        folder: of the copy and the records.
        tests: files or folders to choose tests from; none: those of the mutated package.
    """

    def __init__(self, root: Path, folder: Path, tests: Sequence[str]) -> None:
        self.root, self.folder, self.copy = root, folder, folder / "tree"
        self._take_copy()
        self.records = folder / "outcomes.jsonl"
        lines = self.records.read_text().splitlines() if self.records.is_file() else []
        self.known = {(row["key"], row["version"]): row["outcome"] for row in map(json.loads, lines)}
        self._passing: set[tuple[str, ...]] = set()
        self._preloaded: list[str] | None = None
        self.map = Map(self.copy, folder / "map.json", tests, self._forked)

    def outcome(self, mutation: Mutation, tests: Sequence[str] | None = None) -> str:
        """Whether a test notices it. Once killed it counts until its file changes, else until its tests do.

        Args:
            mutation: which.
            tests: files or ids, in their order; None: those that run the statement.
        """
        named = tests is not None
        tests = self.map.tests_of(mutation) if tests is None else tests
        source = digest(self.copy / mutation.file)
        files = [digest(self.copy / name) for name in sorted({test.split("::")[0] for test in tests})]
        with_tests = hashlib.sha256(json.dumps([source, list(tests), files]).encode()).hexdigest()[:16]
        for version in (source, with_tests):
            if (mutation.key, version) in self.known:
                return self.known[mutation.key, version]
        if named:
            self.require_passing(tests)
        outcome, by = self._run(mutation, tests) if tests else (NOT_REACHED, None)
        version = source if outcome == KILLED else with_tests
        self.known[mutation.key, version] = outcome
        with self.records.open("a") as file:
            file.write(json.dumps({"key": mutation.key, "version": version, "outcome": outcome, "by": by}) + "\n")
        return outcome

    def require_passing(self, tests: Sequence[str]) -> None:
        """Runs tests that are not measured.

        Raises:
            SystemExit: one fails without a mutation, and would be taken for one that notices them all.
        """
        if tuple(tests) not in self._passing:
            failed = self.folder / "failed.txt"
            failed.unlink(missing_ok=True)
            self._preload()
            if self._forked(lambda: _test(tests, failed), GRACE_SECONDS + UNKNOWN_SECONDS * 5 * len(tests)) != 0:
                what = failed.read_text() if failed.is_file() else str(self.folder / "last.log")
                raise SystemExit(f"this fails without a mutation: {what}")
            self._passing.add(tuple(tests))

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
        beside = {self.copy / ".cache": self.root / ".cache", self.folder / "shared": self.root.parent / "shared"}
        for link, target in beside.items():
            if target.exists() and not link.is_symlink():
                link.symlink_to(target)
        for package in OWN:  # forks write none: that of a mutated file would be taken for the file's own
            compileall.compile_dir(self.copy / package, quiet=2)

    def _run(self, mutation: Mutation, tests: Sequence[str]) -> tuple[str, str | None]:
        """-> the outcome, and the test that killed it. The module's own test file alone comes first: fewer imports."""
        path, failed = self.copy / mutation.file, self.folder / "failed.txt"
        kept = path.read_bytes()
        own = [test for test in tests if f"/test_{path.name}" in test]
        self._preload()
        try:
            path.write_text(mutation.text)
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()
            for part in filter(None, (own, [test for test in tests if test not in own])):
                failed.unlink(missing_ok=True)
                limit = GRACE_SECONDS + 5 * sum(self.map.seconds(test) or UNKNOWN_SECONDS for test in part)
                status = self._forked(lambda part=part: _test(part, failed), limit)
                if status != 0:
                    break
        finally:
            path.write_bytes(kept)
        if status == 0:
            return SURVIVED, None
        log = self.folder / "last.log"
        if status == USAGE_ERROR and "no match in any of" not in log.read_text(errors="replace"):
            return KILLED, "import"  # of a conftest.py or of the tests' files
        if status in FAILED_TO_RUN:
            raise SystemExit(f"{mutation.key}: no tests could be run: {log}")
        return KILLED, failed.read_text() if failed.is_file() else "time-out" if status is None else "import"

    def _preload(self) -> None:
        """Imports what tests take from other packages; every fork has it."""
        if self._preloaded is self.map.modules:
            return
        self._preloaded = self.map.modules
        for name in self.map.modules:
            if name.split(".")[0] in PRELOADED and name not in sys.modules:
                try:
                    importlib.import_module(name)
                except Exception:  # what its parent alone may import is imported with that
                    continue
        gc.collect()
        gc.freeze()  # a fork that collected garbage among all that would copy its memory: half a second each

    def _forked(self, work: Callable[[], int], limit: float) -> int | None:
        """-> the exit status of `work` in a forked process, in the copy; None: it was killed after `limit` seconds.

        While both were stopped, as for a measurement that wants the machine alone, no time passes.
        """
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self._enter_copy()
                status = work()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        spent, last = 0.0, time.monotonic()
        try:
            while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                time.sleep(0.02)
                now = time.monotonic()
                spent, last = spent + min(now - last, 1.0), now
                if spent > limit:
                    raise TimeoutError
        except BaseException as error:  # a time-out, or we are asked to stop
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if isinstance(error, TimeoutError):
                return None
            raise
        return os.waitstatus_to_exitcode(done[1])

    def _enter_copy(self) -> None:
        """From here on this process imports ours from the copy, and prints to a file."""
        log = os.open(self.folder / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.copy)
        sys.path[:] = [str(self.copy), *(path for path in sys.path if path not in ("", str(self.root)))]
        os.environ["PYTHONPATH"] = str(self.copy)
        for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
            del sys.modules[name]


def _test(tests: Sequence[str], failed: Path) -> int:
    """Runs tests until one fails, and writes which."""
    sys.dont_write_bytecode = True
    recorder = Recorder()
    status = pytest.main([*FAST, "-x", "--tb=no", *tests], plugins=[recorder])
    if recorder.failed:
        failed.write_text(recorder.failed[0])
    return int(status)
