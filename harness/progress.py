"""How far a piece of work is: the one shape of a progress callback."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # parts done, parts in all
