"""Estimates how hard a chosen secret is to guess, and refuses words, repeats and runs of neighbours.

    weakness("passwordpassword")    # "worth about 0 bits ..."; None for a secret that will do

A character counts only where nothing foretells it: it belongs to no usual word, goes on with no run (abc, 321, qwerty)
and ends no three characters that were there before. What counts is worth the logarithm of the alphabet it is from.
"""

import math
import re
import string

MIN_BITS = 56.0
CLASSES = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
NUM_OTHERS = 33  # printable ASCII beside letters and digits
RUNS = (string.ascii_lowercase, string.digits + "0", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm")
WORDS = [
    "administrator",
    "admin",
    "password",
    "passwort",
    "passwd",
    "secret",
    "token",
    "harness",
    "human",
    "tournament",
    "qlora",
    "rater",
    "vote",
    "voting",
    "server",
    "default",
    "example",
    "changeme",
    "change",
    "letmein",
    "welcome",
    "monkey",
    "dragon",
    "master",
    "iloveyou",
    "football",
    "sunshine",
    "princess",
    "test",
    "super",
    "user",
    "root",
    "login",
    "guest",
    "access",
    "public",
    "private",
    "please",
    "mypass",
    "hello",
    "world",
]
_WORD = re.compile("|".join(sorted(WORDS, key=len, reverse=True)))
_LOOKALIKES = str.maketrans("01345$@7!", "oieassati")


def weakness(token: str) -> str | None:
    """What is wrong with a secret, in words; None where nothing is."""
    bits = strength_bits(token)
    if bits >= MIN_BITS:
        return None
    return f"worth about {bits:.0f} bits, {MIN_BITS:.0f} are needed: words, repeats and runs such as abc count nothing"


def strength_bits(token: str) -> float:
    """A lower guess at the bits that someone has to try who knows how people choose secrets."""
    return _num_unforeseen(token) * math.log2(_alphabet_size(token))


def _alphabet_size(token: str) -> int:
    sizes = [len(letters) for letters in CLASSES if set(token) & set(letters)]
    return sum(sizes) + (NUM_OTHERS if set(token) - set("".join(CLASSES)) else 0) or 1


def _num_unforeseen(token: str) -> int:
    plain = token.lower()
    in_words = _places_of_words(plain) | _places_of_words(plain.translate(_LOOKALIKES))
    seen: set[str] = set()
    count = 0
    for place in range(len(plain)):
        three = plain[max(0, place - 2) : place + 1]
        foretold = three in seen or place in in_words or _goes_on(plain[max(0, place - 1) : place + 1])
        seen.add(three)
        count += not foretold
    return count


def _places_of_words(text: str) -> set[int]:
    return {place for found in _WORD.finditer(text) for place in range(*found.span())}


def _goes_on(pair: str) -> bool:
    """Whether the second of two characters is the first again, or its neighbour in a run."""
    if len(pair) < 2:
        return False
    return pair[0] == pair[1] or any(pair in run or pair[::-1] in run for run in RUNS)
