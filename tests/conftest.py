"""Every test: no network, no user's settings, one thread (tiny models gain nothing from more)."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
for name in ("HARNESS_RUNS", "HARNESS_MODEL_STORE", "HARNESS_DATA_STORE", "HARNESS_CACHE"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run with `make test-slow` only."""
    wanted = "slow" in (config.getoption("-m") or "")
    for item in items:
        if "slow" in item.keywords and not wanted:
            item.add_marker(pytest.mark.skip(reason="slow: run with `make test-slow`"))
