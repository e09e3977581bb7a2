"""Where models and datasets are looked for, and what is said when they are nowhere.

Order: an explicit path, what this project ships, the lab's own store, the hub's local cache, the hub.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Something that a run needs and that is nowhere to be found."""

    what: str  # "weights of llama7b (huggyllama/llama-7b)"
    looked_in: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        places = "\n".join(f"      - {place}" for place in self.looked_in)
        return f"{self.what}: not found\n    looked in\n{places}\n    remedy: {self.remedy}"


def store_names(name: str, hub_id: str, aliases: Sequence[str] = ()) -> Iterator[str]:
    """The names under which a store may hold a thing, best first: its own, its aliases, its hub id."""
    yield name
    yield from aliases
    if "/" in hub_id and not hub_id.startswith("embedded/"):
        yield hub_id
        yield hub_id.replace("/", "--")
        yield hub_id.rpartition("/")[2]


def cached_snapshot(repo_id: str, revision: str, repo_type: str = "model") -> Path | None:
    """The folder of a hub repository that was downloaded before, or None. Needs no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, repo_type=repo_type, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


@cache
def hub_problem(repo_id: str, revision: str, repo_type: str = "model") -> str | None:
    """Why the hub can't serve a repository now, or None where it can. One short try, no retries."""
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return "the hub was not asked: HF_HUB_OFFLINE is set"
    try:
        HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=5.0)
    except errors.HfHubHTTPError as error:
        return f"the hub answered: {str(error).splitlines()[0]}"
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        return f"the hub could not be reached ({type(error).__name__})"
    return None
