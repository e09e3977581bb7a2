"""Removes passwords from text that is printed or stored: those of URLs in any spelling, `password=`, `API_KEY:`."""

import re
import shlex
import urllib.parse
from collections.abc import Sequence

_URL = re.compile(r"([\w+.-]+:/{2}[^\s:/@]*):\S*@")
_TYPO = re.compile(r"(\S*?[^\s:/@*]):(?!/{2})(?!\*{3}@)\S*@")  # postgresql:/me:secret@host, me:secret@host
_NO_HOST = re.compile(
    r"((?:postgres\w*|mysql|mariadb)(?:\+\w+)?:/{2}[^\s:/@]*):(?!\d{1,5}(?:[/?\s'\"]|$))(?!\*{3}@)[^\s'\"]+"
)
_NAME = r"\w*(?:password|passwd|pwd|api_?key|secret|(?:access|auth|hf)_?token)"
_VALUE = r"(\*{3}|\"[^\"]*\"|'[^']*'|[^&\s'\"]+)"
_KEY = re.compile(
    rf"({_NAME}[\"']?\s*(?:=|:(?!/)|%3D)\s*|[?&]pass=){_VALUE}", re.IGNORECASE
)  # PGPASSWORD=, "password":
_ENCODED_KEY = re.compile(r"([?&])([^=&\s]*%[^=&\s]*)=([^&\s'\"]*)")  # pass%77ord=


def without_passwords(text: str) -> str:
    """The text with `***` for the passwords of URLs in it, wherever they stand: in quotes, in a list."""
    masked = _TYPO.sub(r"\1:***@", _URL.sub(r"\1:***@", text)) if "@" in text else text
    return _ENCODED_KEY.sub(_mask_encoded, _KEY.sub(r"\1***", _NO_HOST.sub(r"\1:***", masked)))


def url_without_password(url: str) -> str:
    """As `without_passwords`, of a text that is one URL and nothing else, so that a password may hold spaces."""
    return without_passwords(re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url, flags=re.DOTALL))


def command_without_passwords(command: Sequence[str]) -> str:
    """A command as it was typed, quoted for a shell; a password in one of its arguments may hold spaces."""
    return shlex.join(url_without_password(argument) for argument in command)


def _mask_encoded(found: re.Match[str]) -> str:
    name = urllib.parse.unquote(found[2])
    is_password = re.fullmatch(rf"{_NAME}|pass", name, re.IGNORECASE) is not None
    return f"{found[1]}{found[2]}=***" if is_password else found[0]
