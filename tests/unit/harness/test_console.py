"""The console that all commands share: what bad input ends in, and tables that lose nothing."""

import errno
import io

import pytest
from rich.console import Console

from harness.console import STDERR, TextTable, friendly_errors, say

LABEL = "llama7b-flan-nf4-lora_r=64-[seed=3]"
TABLE = TextTable(
    title="runs [of] mine",
    columns=("label", "loss", "why"),
    rows=[(LABEL, "1.25", "out of memory at step three of a very long story"), ("b", "2", "")],
    numbers=("loss",),
    prose=("why",),
)


def printed(width: int, table: TextTable = TABLE) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 62, 80, 140])
def test_names_and_numbers_stay_whole_at_every_width(width: int) -> None:
    text = printed(width)
    assert LABEL in text
    assert "1.25" in text
    assert "runs [of] mine" in text
    assert " ".join(text.split()).count("…") == 0
    assert max(map(len, text.splitlines())) <= width
    for word in TABLE.rows[0][2].split():
        assert word in text


def test_a_row_becomes_a_block_where_names_and_numbers_do_not_fit() -> None:
    lines = [line.rstrip() for line in printed(40).splitlines()]
    assert LABEL in lines
    assert any(line.startswith("  loss 1.25 | why out of") for line in lines)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("a=[b]: no\nc=d: no"), 2, "error: a=[b]: no\nerror: c=d: no\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.json"), 2, "error: x.json: No such file"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "runs"), 2, "error: runs: Is a directory"),
        (RecursionError("maximum recursion depth exceeded"), 2, "error: the input is nested too deeply"),
        (KeyboardInterrupt(), 130, "stopped\n"),
    ],
)
def test_what_the_user_can_mend_is_a_line_and_a_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left, friendly_errors():
        raise error
    assert left.value.code == status
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("error", [RuntimeError("shapes"), KeyError("a"), AssertionError()])
def test_our_own_faults_keep_their_trace(error: Exception) -> None:
    with pytest.raises(type(error)), friendly_errors():
        raise error


def test_foreign_text_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say("[red]:smile: [/b]", STDERR)
    assert capsys.readouterr().err == "[red]:smile: [/b]\n"


def test_headings_stay_on_one_line_where_there_is_room() -> None:
    table = TextTable(
        columns=("model", "tokens at most", "GB on disk"), rows=[("a", "1", "2")], numbers=("tokens at most",)
    )
    assert printed(60, table).splitlines()[0].split("  ") == ["model", "tokens at most", "GB on disk "]
    assert printed(31, table).splitlines()[1].split() == ["model", "tokens", "at", "most", "disk"]
    assert len(printed(23, table).splitlines()) == 5, "names and numbers come first: three lines of headings"
