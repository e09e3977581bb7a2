"""Removes passwords from text that is printed or stored: those of URLs in any spelling, and of `password=`."""

import re

_URL = re.compile(r"([\w+.-]+:/{2}[^\s:/@]*):\S*@")
_TYPO = re.compile(r"(\S*?[^\s:/@*]):(?!/{2})(?!\*{3}@)\S*@")  # postgresql:/me:secret@host, me:secret@host
_KEY = re.compile(r"\b((?:ssl)?pass(?:word|wd)|pwd)(=|%3D)[^&\s'\"]*", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """The text with `***` for the passwords of URLs in it, wherever they stand: in quotes, in a list."""
    masked = _TYPO.sub(r"\1:***@", _URL.sub(r"\1:***@", text)) if "@" in text else text
    return _KEY.sub(r"\1\2***", masked)


def url_without_password(url: str) -> str:
    """As `without_passwords`, of a text that is one URL and nothing else, so that a password may hold spaces."""
    return without_passwords(re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url, flags=re.DOTALL))
