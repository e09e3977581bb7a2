"""Every test: no network, no user's settings, one thread (tiny models gain nothing from more)."""

import gc
import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
for name in ("HARNESS_RUNS", "HARNESS_MODEL_STORE", "HARNESS_DATA_STORE", "HARNESS_CACHE", "HARNESS_LEDGER_URL"):
    os.environ.pop(name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: commands under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared", deadline=None)  # a loaded machine is slow, not wrong
settings.load_profile("shared")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run with `make test-slow` only."""
    wanted = "slow" in (config.getoption("-m") or "")
    for item in items:
        if "slow" in item.keywords and not wanted:
            item.add_marker(pytest.mark.skip(reason="slow: run with `make test-slow`"))


def pytest_collection_finish() -> None:
    """What was imported stays: a full collection then takes milliseconds, where it took half a second a call."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip for a missing service or missing reference data is a failure: nobody reads skips there."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and "gpu" not in item.keywords:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped under CI=true, where everything it needs must be there: {reason}"
    return report
