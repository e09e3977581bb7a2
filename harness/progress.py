"""The type of every progress callback: it is called with how far a piece of work is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (parts done, all parts)
