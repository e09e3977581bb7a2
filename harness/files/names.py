"""Checks names of runs and systems from elsewhere before they become parts of paths."""

_LONGEST = 200  # bytes; file systems take 255, and endings are added


def file_name(name: str, what: str) -> str:
    """Returns the name if it can be that of a file: neither a path nor a way out of a folder.

    Args:
        name: as it stands in a record or a ledger.
        what: it is the name of, for the message.

    Raises:
        ValueError: it holds a separator or a character that no name has, or is too long.
    """
    is_path = name in ("", ".", "..") or any(mark in name for mark in "/\\") or not name.isprintable()
    if is_path or len(name.encode(errors="replace")) > _LONGEST:
        raise ValueError(f"{what} {name[:80]!r}: not the name of a file or folder; it is not written to")
    return name
