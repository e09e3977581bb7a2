"""Says what is wrong with a folder or a file that an option names, before anything is read or written."""

from pathlib import Path


def require_folder(path: Path, option: str) -> None:
    """A folder to write into, which need not be there.

    Raises:
        ValueError: it, or a folder that it lies in, is a file.
    """
    for place in (path, *path.parents):
        if place.exists():
            if not place.is_dir():
                what = "it" if place == path else str(place)
                raise ValueError(f"{option} {path}: {what} is a file; name a folder, which is made where there is none")
            return


def require_file(path: Path, option: str) -> None:
    """A file to read.

    Raises:
        ValueError: there is none, or it is a folder.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path}: it is a folder; name a file in it")
    if not path.is_file():
        raise ValueError(f"{option} {path}: no such file")
