"""Names of others don't lead out of a folder."""

import pytest

from harness.files.names import file_name


@pytest.mark.parametrize("name", ["smollm2-concise-nf4", "0123456789ab", "a b.c", "数据", "..."])
def test_names(name: str) -> None:
    assert file_name(name, "run") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300, "\ud800"]
)
def test_paths_are_no_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"run .*not the name of a file or folder"):
        file_name(name, "run")
