"""The words of which a judge's verdict may consist. A sentence with any other word is left unread."""

from eval.verdicts.codes import FIRST, SECOND, TIE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def any_of(words: str) -> str:
    """A pattern for any of the words; `*` stands for any ending, `_` for a blank."""
    return "|".join(words.split()).replace("*", r"\w*").replace("_", " ")


VALUES = {
    **dict.fromkeys(("1", "a", "first", "1st"), FIRST),
    **dict.fromkeys(("2", "b", "second", "2nd"), SECOND),
    **dict.fromkeys(("3", "c", "tie", "tied", "draw", "equal", "equivalent"), TIE),
}
SPELLED = {"one": FIRST, "two": SECOND, "ii": SECOND}  # numbers only after a noun: "answer one"
SIDES = {FIRST, SECOND}
NOUNS = _words("answer assistant option response candidate model reply solution number choice system chatbot")
LEAD = NOUNS | _words(
    "so thus hence therefore and my the final best better preferred top overall i would choose select pick prefer "
    "verdict choice decision winner output result class rating is are it go with vote for in conclusion "
    "say going lean towards think believe that this rank ranking was judgment judgement preference selection "
    "leaning toward find definitely certainly clearly undoubtedly call advantage goes clear win narrow slight edge ok "
    "okay sure slightly judge conclude deem declare digit be selected chosen strong"
)
VERBS = _words("is was seems are performs performed did does")
DEGREES = _words(
    "clearly slightly much far significantly overall a the bit little marginally definitely also somewhat only narrowly"
)
ARTICLES = _words("a an")
POINTING = _words("that this it")  # at something said before, which may be the worse answer
BETTER = _words("better best superior preferable stronger preferred winner")
# "more helpful" is better, "less helpful" worse; the others only in a list that begins with one of these
QUALITIES = _words("helpful accurate correct useful convincing")
MORE_QUALITIES = QUALITIES | _words(
    "detailed complete comprehensive thorough informative relevant clear precise coherent concise insightful reliable"
)
WINS = _words("wins won")
WORSE = {  # then the other
    *(("worse", "than"), ("inferior", "to"), ("loses", "to"), ("lost", "to"), ("beaten", "by"), ("outperformed", "by")),
}
THAN = _words("than to over")
REFERENCE = NOUNS | _words("the other one second first 1 2 a b two")  # after "than"
BOTH_NAMED = _words("both they two answers responses assistants")
BOTH_VERBS = _words("are were")
EQUALLY = _words("equally")
BOTH_BESIDE = _words("the these of them")
BOTH = BOTH_NAMED | BOTH_VERBS | EQUALLY | BOTH_BESIDE
EQUAL_ALONE = _words("equal equivalent identical tied same")
EQUAL = EQUAL_ALONE | _words("good bad well helpful wrong correct strong")
OVER = _words("beats outperforms surpasses over above")  # "answer 2 beats answer 1", "I choose 2 over 1"
BECAUSE = _words("as because since - \u2013 \u2014")
# A remark with one of these may take the verdict back.
AGAINST = _words(
    "but however although though if unless or nor not no never worse loses lost wrong incorrect "
    "incomplete weaker inferior lacks fails poor bad neither cannot hardly would could might maybe "
    "perhaps none nobody nothing"
)
# Of an explanation: what speaks ill of an answer, compares two, or leaves open what is meant.
ILL = """
    wrong* incorrect* inaccura* incomplete* worse worst weak* inferior less least lack* fail* miss* omit* ignor*
    skip* error* mistake* only merely just vague* short shallow superficial generic poor* bad* unclear confus*
    irrelevan* off-topic off_topic repetiti* repeats? redundan* rambl* verbose wordy hallucinat* invent*
    fabricat* contradict* flaw* brief limited lose* lost forgets? forgot* overlook* false* mislead* refus* buggy
    bugs? broken crash* outdated unhelpful unsafe harmful nonsens* restates? cut trunca* unnecessar* minor few*
    problem* issues? dry too trails? struggl* neglect* unsupported unrelated disorgani[sz]ed misunderst*
    misinterpret* terribl* awful* useless* mediocre disappoint* inadequate* insufficient* sloppy biased rude
    slow* excessive* misread* backwards mess disqualif* simplistic oversimpl* dull stilted
"""
WELL = """
    solve[sd] correct* accura* complete* clear* detail* concise* helpful* useful* relevan* precise* thorough*
    comprehensive* covers? explains? provides? gives? offers? includes? contains? addresses follows directly
    cites? sources? works? working runs? well good great strong* honest* creative* engaging structured
    organi[sz]ed right handles? shows? names? answers_(?:the|all|every|it|directly) stays? fulfils? fulfills?
    meets? compiles passes better more convincing* insight* polite* friendl* valid sound reliable excellent
    perfect* exact* nuanced actionable practical safe runnable readable lists? supports? illustrat* examples?
    admits? acknowledg* identif* corrects? avoids? catches understands? keeps? respects? goes the_only_one
    the_only_answer the_only_response
"""
MENDS = """
    points_out identif* corrects? avoids? catches spots? admits? acknowledg* fixes handles? warns?
    notes? mentions? shows?
"""  # with something ill behind it: of whom that is said can't be told
COMPARATIVES = """
    more better stronger superior clearer deeper richer longer higher greater easier closer outperforms beats surpasses
    exceeds less worse weaker inferior poorer lower shorter
"""
DOUBTFUL = """
    if unless would could might may should maybe perhaps depends however although though despite instead misread hmm but
    who_knows unsure uncertain hard_to difficult_to arguabl* or either neither nonetheless nevertheless still close
    equal* tie except even
"""
# A remark in brackets with one of these leaves the verdict open.
UNSURE = _words("or ? may might could maybe perhaps unsure sure if unless but however guess wrong almost probably")
# What somebody else says or thinks is no verdict of the judge's.
OTHERS_SAY = _words("says said claims claimed states writes wrote thinks believes according allegedly supposedly some")
NOT_YET = _words("false initially sight impression tentatively previously originally")  # a verdict that isn't the last
FAREWELLS = (
    *("hope this helps", "hope that helps", "hope it helps", "i hope", "let me know", "please let me know"),
    *("feel free", "if you need", "if you have", "thank you", "thanks", "best regards", "kind regards", "regards"),
)
REFUSED_IN_WORDS = (  # at the beginning: what follows is no verdict, as it was not meant to be one
    r"(?:i['\u2019]?m |i am )?(?:very |so )?sorry\b[^.\n]{0,20}\b(?:can['\u2019]t|cannot|can not"
    r"|won['\u2019]t|will not|am unable|['\u2019]m unable)\b|i (?:must |have to |respectfully )?(?:refuse|decline) to\b"
    r"|as an? (?:ai|(?:large )?language model)\b[^.\n]{0,40}\b(?:can['\u2019]t|cannot|do not|don['\u2019]t|am unable)\b"
    r"(?! have (?:any |personal ){0,2}(?:preferences|opinions|feelings)\b[^.\n]{0,40}\bbut\b)"
)
# Said of what stands before: it counts no more, whether or not something new follows.
TAKEN_BACK = (
    r"i meant?\b|mixed (?:them |it |these )?up|mix-up|strike (?:that|it|this)|scratch (?:that|it|this)|disregard"
    r"|retract\w*|take (?:that|it|this|them|these) back|oops|swapped|(?:reversed?|other|wrong|opposite|switched) order"
    r"|wrong way (?:a)?round|just kidding|ignore (?:the|my|what|that) (?:above|former|previous|first|earlier)"
)
# New values follow, if any.
CHANGED = (
    r"wait|no[,:;.]|actually|correction|corrected|revis\w*|chang\w*|updat\w*|sorry|should be|reconsider\w*|reflection"
    r"|second thoughts?|edit|edited|rather|upon (?:review|rereading)|after all|on review|apolog\w*|flip\w*"
)
