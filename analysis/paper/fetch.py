"""Fetches the authors' released judgments, pinned and checked, for `python -m analysis data`.

Only what `analysis.paper.released` reads is taken from each repository, at one commit, by git: it compares every byte
with the commit's own hash. Then the judgments read from it are compared by sha256 with the copies that the paper's
tables were recomputed from (no trusted copy of the Open Assistant verdicts was there to take one from: they are held by
the commit alone).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from analysis.paper.released import RELEASES, Release, canonical_sha256, locate

TIMEOUT_SECONDS = 600


class NotFetched(ValueError):
    """Raised for a repository that can't be fetched or isn't what it should be; has its URL and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A public repository at one commit, and what is wanted of it."""

    name: str  # folder below the data folder
    url: str
    commit: str
    folders: tuple[str, ...]


REPOSITORIES = (
    Repository(
        name="qlora",
        url="https://github.com/artidoro/qlora",
        commit="05daee4ead5387636f6caf06a7941db789e75900",
        folders=("eval/ratings-gpt4", "eval/prompts"),
    ),
    Repository(
        name="prd",
        url="https://github.com/bcdnlp/PRD",
        commit="a04178577a8bc959a701802876826feee0484f6d",
        folders=("data/vicuna80/ratings-human",),
    ),
)


def fetch(
    data: Path, say: Callable[[str], None], repositories: tuple[Repository, ...] = REPOSITORIES
) -> dict[str, str]:
    """Fetches what isn't there yet. -> each set of judgments, and how it was checked.

    Args:
        data: the data folder.
        say: told what happens.
        repositories: where from.

    Raises:
        NotFetched: no network, no git, or judgments that differ from the released ones.
    """
    for repository in repositories:
        target = data / repository.name
        missing = [folder for folder in repository.folders if not (target / folder).is_dir()]
        if not missing:
            say(f"{target}: there already")
            continue
        say(f"fetching {repository.url} at {repository.commit[:12]}")
        _fetch_one(repository, target)
    return dict(_checked(data))


def _checked(data: Path) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as scratch:
        for release in RELEASES.values():
            yield release.name, check(release, locate(release.name, data, Path(scratch).resolve()))


def check(release: Release, path: Path) -> str:
    """Compares a set's CSV with the released judgments. -> the result in words

    Raises:
        NotFetched: it differs.
    """
    if release.sha256 is None:
        return "as the commit has it (no sha256 is known)"
    digest = canonical_sha256(release, path)
    if digest != release.sha256:
        raise NotFetched(
            f"{release.name}: the judgments' sha256 is {digest}, and should be {release.sha256}; delete what was "
            f"fetched and fetch it again, and don't use it as the paper's"
        )
    return f"sha256 {digest[:12]}, as released"


def _fetch_one(repository: Repository, target: Path) -> None:
    """Fetches all wanted folders of a repository, or leaves nothing."""
    if shutil.which("git") is None:
        raise NotFetched(_remedy(repository, target, "git is not installed"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{repository.name}-") as scratch:
        commands = (
            ("init", "--quiet"),
            ("remote", "add", "origin", repository.url),
            ("sparse-checkout", "set", "--no-cone", *(f"/{folder}/" for folder in repository.folders)),
            ("fetch", "--quiet", "--depth", "1", "--filter=blob:none", "origin", repository.commit),
            ("checkout", "--quiet", "FETCH_HEAD"),
        )
        for command in commands:
            _git(repository, target, Path(scratch), command)
        for folder in repository.folders:
            if not (Path(scratch) / folder).is_dir():
                raise NotFetched(_remedy(repository, target, f"the commit has no folder {folder}"))
        for folder in repository.folders:
            (target / folder).parent.mkdir(parents=True, exist_ok=True)
            if not (target / folder).exists():
                (Path(scratch) / folder).rename(target / folder)


def _git(repository: Repository, target: Path, folder: Path, command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "-c", "core.autocrlf=false", *command],
            cwd=folder,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},  # a user's own proxy and mirrors (insteadOf) hold
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotFetched(_remedy(repository, target, f"no answer within {TIMEOUT_SECONDS} s")) from error
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"git {command[0]} ended with {done.returncode}"
        raise NotFetched(_remedy(repository, target, said))


def _remedy(repository: Repository, target: Path, reason: str) -> str:
    folders = " and ".join(repository.folders)
    return (
        f"{repository.url} could not be fetched: {reason}. Where there is a network: git clone {repository.url} && "
        f"git checkout {repository.commit}; then copy its {folders} to {target}. Or put CSVs of the judgments into "
        f"{target.parent}: {', '.join(f'{name}.csv' for name in RELEASES)}"
    )
