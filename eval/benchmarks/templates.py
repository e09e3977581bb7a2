"""Puts contestants together that are read by one chat template, for benchmarks that ask through it."""

from collections.abc import Iterator, Sequence

from eval.benchmarks.benchmark import Contestant
from eval.systems import own_template, read_by_template
from harness.banks.load import LoadedBase


def members_by_template(
    base: LoadedBase, contestants: Sequence[Contestant], chat: bool
) -> Iterator[tuple[LoadedBase, dict[str, str | None]]]:
    """Contestants that are read by one chat template, together. -> the base so read, and name -> member."""
    groups: dict[str | None, dict[str, str | None]] = {}
    for one in contestants:
        template = own_template(one.system) if chat and one.system is not None else None
        groups.setdefault(template, {})[one.name] = one.member
    for template, members in groups.items():
        yield read_by_template(base, template), members
