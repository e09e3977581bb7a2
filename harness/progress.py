"""The type of every progress callback: it is called with how far a piece of work is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (parts done, all parts)


def part_of(on_progress: Progress, done_before: int, num_together: int, num_all: int) -> Progress:
    """The progress of some systems, told as that of all, which have as many parts each.

    Args:
        on_progress: told of all.
        done_before: systems that are done.
        num_together: systems that are worked on now.
        num_all: all systems.
    """

    def advance(done: int, total: int) -> None:
        each = total // num_together
        on_progress(done_before * each + done, num_all * each)

    return advance
