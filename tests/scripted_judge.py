"""A judge that a function writes for: its replies go through the parser that reads an API judge's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.judging.matches import Failure, Judgment, Match
from eval.judging.parse import judgment_of
from eval.judging.prompts import JudgePrompt, Mode, PromptSet, own_prompts, render


class ScriptedJudge:
    """`reply` writes the judge's text, the usual parser reads it."""

    is_waiting = False
    stopped: str | None = None

    def __init__(
        self, reply: Callable[[JudgePrompt, Match], str], name: str = "scripted", prompts: PromptSet | None = None
    ) -> None:
        self.name = name
        self._reply = reply
        self._prompts = prompts or own_prompts(Mode.pairwise)
        self.settings: Mapping[str, Any] = {"kind": "scripted", "prompts_sha256": self._prompts.sha256}

    def prompt_sha256(self, match: Match) -> str:
        """Of the rendered prompt."""
        return render(self._prompts, match).sha256

    def judge(self, matches: Sequence[Match], on_judgment: Callable[[Judgment], None]) -> list[Failure]:
        """Asks the script."""
        for match in matches:
            prompt = render(self._prompts, match)
            on_judgment(judgment_of(match.key, prompt.sha256, self._prompts.mode, self._reply(prompt, match)))
        return []
