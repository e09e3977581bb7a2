"""A judge that repeats the verdicts of files.

`ReplayJudge` lets a tournament be rated, reported and compared from verdicts that others paid
for, such as the paper's released ones.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answers.files import named
from eval.judging.matches import Failure, Judgment, Match
from eval.judging.prompts import hash_text
from eval.verdicts.codes import UNPARSED
from harness.files.atomic import sha256_file


class ReplayJudge:
    """A judge that looks verdicts up in files that `eval.verdicts.table` reads."""

    is_waiting = False
    stopped: str | None = None

    def __init__(self, paths: Sequence[Path], judge: str | None = None) -> None:
        """Reads the files.

        Args:
            paths: verdict files.
            judge: whose verdicts, where the files hold several judges'.

        Raises:
            ValueError: a file can't be read, it holds several judges and none is named, or several raters or turns.
        """
        from eval.verdicts.table import load_verdicts  # compiles its numeric parts: only who replays waits for them

        rows = load_verdicts(paths)
        judges = sorted(set(rows.judge.values))
        if judge is not None and judge not in judges:
            raise ValueError(f"judge={judge!r}: the files hold verdicts of {', '.join(judges)}")
        if judge is None and len(judges) > 1:
            raise ValueError(
                f"the files hold verdicts of {', '.join(judges)}; name the one to replay: replay:FILE#JUDGE"
            )
        self._verdicts: dict[tuple[str, str, str], int] = {}
        for index in range(len(rows)):
            if judge not in (None, rows.judge.values[rows.judge.codes[index]]):
                continue
            key = (
                rows.question.values[rows.question.codes[index]],
                rows.system_names[rows.first[index]],
                rows.system_names[rows.second[index]],
            )
            if key in self._verdicts:
                raise ValueError(
                    f"question {key[0]}, {key[1]} against {key[2]}: several raters or turns; a replay needs one "
                    f"verdict a match, so rate such files directly with `python -m eval rate --aggregate`"
                )
            self._verdicts[key] = int(rows.verdict[index])
        self.name = judge or judges[0] or f"replay-{paths[0].stem}"
        self.settings: Mapping[str, Any] = {"kind": "replay", "files_sha256": [sha256_file(path) for path in paths]}

    def prompt_sha256(self, match: Match) -> str:
        """The hash of the match's names, because a file says nothing about texts."""
        return hash_text("\n".join(match.key))

    def unmatched(self, matches: Sequence[Match]) -> list[str]:
        """A note on the files' verdicts that are on none of the matches; empty where there are none."""
        asked = {match.key for match in matches}
        strange = [f"{key[0]} ({key[1]}, {key[2]})" for key in self._verdicts if key not in asked]
        share = f"{len(strange)} of {len(self._verdicts)} verdicts of the files"
        return [f"{share} are on no match here and are left out: {named(strange)}"] if strange else []

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Looks every match up; one that the files lack is a failure."""
        failures = []
        for match in matches:
            question, first, second = match.key
            verdict = self._verdicts.get(match.key)
            if verdict is None:
                reason = "not in the verdict files"
                failures.append(Failure(question_id=question, system_a=first, system_b=second, reason=reason))
                continue
            on_judgment(
                Judgment(
                    question_id=question,
                    system_a=first,
                    system_b=second,
                    prompt_sha256=self.prompt_sha256(match),
                    verdict=verdict,
                    reason="unparsed in the verdict file" if verdict == UNPARSED else None,
                )
            )
        return failures
