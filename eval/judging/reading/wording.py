"""Puts a judge's sentence into the few words that `eval.judging.reading.sentences` reads; what it says stays the same.

"The latter is more helpful, by a hair" becomes "the second is better".
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from eval.judging.reading.words import MORE_QUALITIES, QUALITIES, VALUES


def _either(patterns: str) -> str:
    """A pattern for any of the lines."""
    return f"(?:{'|'.join(line.strip() for line in patterns.strip().splitlines())})"


_POINTED = re.compile(r"\b(?:former|latter)\b", re.IGNORECASE)
_NAME = re.compile(
    r"\b(?:answer|assistant|option|response|candidate|model) ?#?([12ab])\b|\b(first|second)\b", re.IGNORECASE
)
_POINTS = re.compile(r"(?:that|this|it)\b", re.IGNORECASE)  # at what was said before, which stays behind "so"
_ADVERB = _either("""
    (?:clearly|slightly|definitely|narrowly|marginally|somewhat|overall|generally|ultimately|clear|slight|much|far)\\s
""")
_THING = _either("(?:answer|response|option|choice|solution|reply|one|job|assistant|candidate|explanation)")
_BETTER_THING = rf"(?:better|best|superior|stronger|preferable|more helpful|more useful) {_THING}"
_TWO = r"(?: of the two(?: answers| responses)?)?"
_OF_BOTH = rf"(?: (?:of |between )?(?:(?:the )?(?:two|both)(?: of (?:the|these))?|these)(?: {_THING}s)?)?"
_CONSIDERED = _either("""
    (?:points|factors|considerations|analysis|assessment|evaluation|comparison|criteria|observations|reasons)
""")
_CAREFUL = r"(?:(?:careful|thorough|close|detailed|my|a|the|full|some) ){0,3}"
# What may stand before a verdict and says nothing of it; "in terms of accuracy" would.
_OPENINGS = _either(rf"""
    no doubt|without (?:a|any) doubt|hands down|ultimately|for me|as a result|consequently|accordingly|as such|here
    all in all|on balance|on the whole|in (?:summary|short|sum|total|the end)|to (?:sum up|summari[sz]e|conclude)
    in my (?:view|opinion|judge?ment|assessment|estimation)|all things considered|taken together
    taking (?:everything|all of this|all this) into (?:account|consideration)|(?:given|considering|weighing) everything
    (?:given|considering|weighing|based on) (?:all (?:of )?)?(?:this|these|that|it|the above|both)(?: {_CONSIDERED})?
    in (?:light|view) of (?:all (?:of )?)?(?:this|these|that|the above)(?: {_CONSIDERED})?
    (?:for|because of) (?:this|these|that|those)(?: reasons?)?
    (?:after|upon|on) {_CAREFUL}(?:review|inspection|consideration|comparison|analysis|evaluation|assessment){_OF_BOTH}
    (?:after|having) (?:carefully )?(?:compar|weigh|consider|evaluat|review|read|analy[sz])(?:ing|ed)?{_OF_BOTH}
    (?:of|between) the two(?: (?:answers|responses|options))?|in this (?:case|comparison|instance)
    for this (?:question|task|prompt|request)|finally|so|thus|therefore|hence|overall|sure|okay|ok|certainly|well
    close call|in the final analysis|however|nevertheless|nonetheless|that said|even so
    it['\u2019]s close,? but|it (?:is|was) close,? but
""")
_OPENING = re.compile(rf"\A\W*(?:{_OPENINGS}\b[,:]? ?(?!\Z)){{1,4}}", re.IGNORECASE)
_ENDINGS = _either(rf"""
    (?:but|though|although) (?:(?:only )?(?:barely|just)|(?:it['\u2019]s|it is|it was) (?:very )?close)
    by (?:an? )?(?:(?:very|fairly) )?(?:small|narrow|slim|thin|wide|large|clear|huge|slight|comfortable) margin
    (?:to|for) (?:the|this) user
    by a hair|by far|hands down|on balance|across the board|on all (?:counts|fronts)|without (?:a|any) doubt
    in (?:all|every) (?:respects?|aspects?|regards?|way)|here|in this (?:case|comparison|instance|round)
    of (?:the|these) two(?: {_THING}s)?|of both(?: {_THING}s)?
    (?:in|of) this comparison|this (?:round|time)|for this (?:question|task|prompt|request)
""")
_ENDING = re.compile(rf",? {_ENDINGS}\W*\Z", re.IGNORECASE)  # how clear it was, and what was compared
_CONCEDED = re.compile(r", (?:although|though|even though|despite) .{1,200}\Z", re.IGNORECASE)  # behind a choice
_GRANTED = re.compile(  # before what decides: "while answer 1 is concise, ..."
    r"\A(?:(?:so|thus|overall),? )?(?:while|although|though|even though|despite|whereas|since|because|given) "
    r"[^.;:?]{1,150}, "
    rf"(?=(?:the )?(?:{_THING}|model) ?#?[12ab]\b|the (?:first|second)\b|i )",
    re.IGNORECASE,
)
_IF = re.compile(r"\b(?:if|unless|would|could|may|might)\b", re.IGNORECASE)
_LIMITS = re.compile(
    r"\b(?:if|unless|not|no|could|would|may|might|perhaps|maybe|better|best|superior|wins?|won|prefer\w*|verdict|tie|equal\w*"
    r"|choose|or|only|n't)\b|n['\u2019]t\b|[?;:]",
    re.IGNORECASE,
)
_GOOD = _either("""
    helpful|accurate|correct|good|valid|strong|detailed|relevant|useful|comprehensive|clear|informative|wrong|bad
    incorrect|flawed|poor|weak|unhelpful|complete|thorough|concise|matched|well-written|effective
""")
_EVEN = _either(rf"""
    equally {_GOOD}(?:(?:,|,? and) {_GOOD})*|equal|equivalent|identical|tied|on (?:a )?par|evenly matched
    (?:comparable|equal|identical) in quality
    of (?:equal|similar|comparable|the same) (?:overall )?(?:quality|merit|value)
""")
_ABOUT = r"(?:(?:about|roughly|more or less|essentially|basically|virtually|practically|both|quite|overall|broadly) )?"
_BOTH = _either(rf"""
    (?:both(?: of (?:the|them|these))?|the two|they|these(?: two)?)(?: {_THING}s)?
    (?:{_THING} )?[1a] and (?:{_THING} )?[2b]|(?:{_THING} )?[2b] and (?:{_THING} )?[1a]
""")
_NO = r"(?:I (?:see|find) |there(?:['\u2019]s| is) )?no(?: clear| real| significant| meaningful)?"
_NO_DIFFERENCE = _either(rf"""
    {_NO} difference in (?:overall )?quality(?: between{_OF_BOTH})?
    neither(?: (?:of (?:the two|them)|{_THING}))? is {_ADVERB}?better than the other(?: one)?
""")
_BECAUSE = _either(r"""
    (?<=is better) (?:of|at|in) (?=\w{3,15}ing\b)
    ,? (?:for (?=its\b|being\b)|with (?=its\b|more\b|better\b)|by (?=\w{3,15}ing\b)|given (?=its\b))
    ,? (?:due|owing|thanks) to
    ,? (?:in terms of|in|regarding) (?=(?:\w{3,20}, ){0,5}\w{3,20},? and \w{3,20}\Z)
""")
_ANY = rf"(?:the )?{_THING} ?#?[12ab]"
_QUALITY = f"(?:{'|'.join(sorted(MORE_QUALITIES))})"
_MANY = rf"{_QUALITY}(?:(?:,|,? and) (?:more )?{_QUALITY})*"
# In this order: each pattern says the same as the few words beside it.
_SAME = [
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (rf"\A(?:{_BOTH} (?:are|were) {_ABOUT}{_EVEN}(?: overall| in quality)?|{_NO_DIFFERENCE})\Z", "tie"),
        (
            rf"\bI (?:consider|rate|find|judge|rank) (?:{_BOTH}|them) (?:as )?(?:{_EVEN}|equally)\b|\Aa? ?dead heat\Z",
            "tie",
        ),
        (
            r"\b(?:serves|helps|answers|addresses|meets) (?:the|this) (?:user|question|request|task)(?:'s needs?)?"
            r" better\b|\bdoes better\b",
            "is better",
        ),
        (r"\A(?:(?:the|my) )?(?:nod|point|prize|edge)(?: goes)? to\b", "verdict is"),
        (r"\bI (?:would )?give (?:it|this|this one|this round|the (?:win|edge|nod|point)) to\b", "I choose"),
        (r"\A(?:they tie|of equal quality|equal quality)\Z", "tie"),
        (rf"\A{_ANY} (?:is|are) (?:on (?:a )?par with|just as good as|tied with|equal to) {_ANY}\Z", "tie"),
        (r"\bwell-(?:organi[sz]ed|structured|written|rounded|reasoned|researched)\b", "detailed"),
        (rf"\bis the more {_MANY} {_THING}\b", "is better"),
        (r"\b(?:prevails|triumphs|deserves to win|ranks higher|is victorious)\b", "wins"),
        (r"\bis (?:the|my) (?:correct |final |clear )?(?:verdict|choice|pick|winner)\Z", "is better"),
        (r"(?<=\w) ?[=-]{1,2}> ?(?=\w)", ": "),
        (r"\bI['\u2019](?:d|ll)\b", "I would"),
        (r"\bI (?:would |will |do )?(?:have|need) to (?=(?:say|go|choose|pick|vote))", "I "),
        (r"\bI (?:would )?(?:ultimately|therefore|thus|also|clearly|still|strongly|personally|must|will|do) ", "I "),
        (
            _either(r"""
                \b(?:should|ought to) be (?:preferred|chosen|selected|favou?red|considered (?:the )?(?:better|winner))\b
                \bis (?:to be )?favou?red\b
            """),
            "is better",
        ),
        (
            r"\b(?:provides|provided|offers|offered|gives|gave|delivers|delivered|presents|presented|has|had|does|did"
            rf"|makes) (?:the|a|an) {_ADVERB}?{_BETTER_THING}(?: overall)?{_TWO}",
            "is better",
        ),
        (
            _either(r"""
                \b(?:edges|edged) out\b|\b(?:outshines|outclasses|trumps|tops|bests|exceeds|edges)\b
                \b(?:comes out|is)(?: clearly| slightly)? ahead of\b
                \b(?:has|holds) (?:an?|the) (?:clear |slight )?(?:edge|advantage) over\b
            """),
            "beats",
        ),
        (
            _either(rf"""
                \b(?:comes|came) out (?:on top|ahead|as the winner)\b|\bis the way to go\b|\b(?:comes|came) first\b
                \b(?:takes|took|gets|got|earns|deserves) (?:the|a|my) {_ADVERB}?(?:win|prize|crown|round|vote|nod)\b
                \b(?:has|had|takes|gets|deserves) (?:the|an?) {_ADVERB}?(?:edge|advantage|upper hand)\b
            """),
            "wins",
        ),
        (r"\b(?:stands out|emerges|comes out) as\b", "is"),
        (rf"\b(?:the )?{_THING} (?:of|by|from|given by) (?=(?:assistant|model) [12ab]\b)", ""),
        (_BECAUSE, " because "),
    )
]


def resolved(text: str) -> str:
    """The text with "first" for "former" and "second" for "latter", where the answers are named in that order, or not.

    After "Answer 2 is short, answer 1 long" the former is answer 2: then it stays as it is, and is not read.
    """
    if not (pointed := list(_POINTED.finditer(text))):
        return text
    names = [VALUES[(match[1] or match[2]).lower()] for match in _NAME.finditer(text, 0, pointed[-1].start())]
    if any(one > two for one, two in pairwise(names)) or (names and len(set(names)) < 2):
        return text
    return _POINTED.sub(lambda match: "first" if match[0].lower() == "former" else "second", text)


def reworded(text: str) -> str:
    """A sentence without what says how clear the verdict was, its verbs by the few that the grammar knows."""
    text = " ".join(text.split()).rstrip(" .!")
    bare = _OPENING.sub("", text, count=1)
    text = text if _POINTS.match(bare) else bare
    granted = _GRANTED.match(text)
    if granted and not _IF.search(granted[0]):
        text = text[granted.end() :]
    bare = _OPENING.sub("", text, count=1)
    text = _ENDING.sub("", text if _POINTS.match(bare) else bare)
    conceded = _CONCEDED.search(text)
    if conceded and not _LIMITS.search(conceded[0]):
        text = text[: conceded.start()]
    for pattern, words in _SAME:
        text = pattern.sub(words, text)
    return text


def plainer(tokens: list[str]) -> list[str]:
    """The tokens with "more helpful, detailed and accurate" as "better", "less helpful" as "worse", "to be" as "is"."""
    kept: list[str] = []
    position = 0
    while position < len(tokens):
        token, follows = tokens[position], tokens[position + 1 : position + 2]
        if token in ("more", "less") and QUALITIES.issuperset(follows) and follows:
            kept.append("better" if token == "more" else "worse")
            position += 2
            while (length := _further(tokens[position : position + 4])) > 0:
                position += length
            continue
        if token == "to" and follows == ["be"]:
            kept.append("is")
            position += 2
            continue
        kept.append(token)
        position += 1
    return kept


def _further(tokens: Sequence[str]) -> int:
    """How many of the tokens are one more quality of a list: ", detailed", ", and more accurate"."""
    length = 0
    while length < len(tokens) and tokens[length] in (",", "and", "more"):
        length += 1
    is_joined = bool({",", "and"} & set(tokens[:length]))
    return length + 1 if is_joined and length < len(tokens) and tokens[length] in MORE_QUALITIES else 0
