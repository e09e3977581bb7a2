"""The words of which a judge's verdict may consist. A sentence with any other word is left unread."""

from eval.verdicts.codes import FIRST, SECOND, TIE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VALUES = {
    **dict.fromkeys(("1", "a", "first", "1st", "erste", "première", "primera", "первый", "eerste"), FIRST),
    **dict.fromkeys(("2", "b", "second", "2nd", "zweite", "deuxième", "seconde", "segunda"), SECOND),
    **{"второй": SECOND, "tweede": SECOND},
    **dict.fromkeys(("3", "c", "tie", "tied", "draw", "equal", "equivalent"), TIE),
    **dict.fromkeys(("unentschieden", "gleichstand", "égalité", "empate", "pareggio", "ничья"), TIE),
}
SPELLED = {"one": FIRST, "two": SECOND, "ii": SECOND}  # numbers only after a noun: "answer one"
SIDES = {FIRST, SECOND}
NOUNS = _words(
    "answer assistant option response candidate model reply solution number choice antwort réponse "
    "respuesta risposta resposta ответ antwoord assistent asistente system chatbot"
)
LEAD = NOUNS | _words(
    "so thus hence therefore and my the final best better preferred top overall i would choose select pick prefer "
    "verdict choice decision winner output result class rating is are it go with vote for in conclusion "
    "say going lean towards think believe that this rank ranking was judgment judgement preference selection "
    "gana vince победитель leaning toward find definitely certainly clearly undoubtedly "
    "fazit urteil ergebnis ich wähle nehme "
    "die verdict veredicto conclusión elijo la el le je choisis verdetto scelgo вердикт итог вывод "
    "выбираю uitspraak call advantage goes clear win narrow slight edge ok okay sure finde mein "
    "meine mon ma mi mio préfère prefiero preferisco bevorzuge c'est meilleure mejor migliore endgültiges definitivo "
    "der das es ist est è sieger gewinner beste bessere ganador ganadora vainqueur gagnant vincitore vincitrice"
)
VERBS = _words("is was seems are performs performed did does ist est es è é")
DEGREES = _words(
    "clearly slightly much far significantly overall a the bit little marginally definitely also somewhat only "
    "narrowly deutlich klar etwas viel eindeutig nettement clairement légèrement claramente mucho ligeramente molto "
    "chiaramente eine die la el le un une"
)
ARTICLES = _words("a an ein eine un une una um")
POINTING = _words("that this it das es c'est questo esto")  # at something said before, which may be the worse answer
BETTER = _words(
    "better best superior preferable stronger preferred winner besser meilleure meilleur mejor migliore "
    "melhor лучше beter hilfreicher genauer korrekter"
)
# "more helpful" is better, "less helpful" worse; the others only in a list that begins with one of these
QUALITIES = _words("helpful accurate correct useful convincing")
MORE_QUALITIES = QUALITIES | _words(
    "detailed complete comprehensive thorough informative relevant clear precise coherent concise insightful reliable"
)
WINS = _words("wins won gewinnt gagne gana vince l'emporte")
WORSE = {
    ("worse", "than"),
    ("inferior", "to"),
    ("loses", "to"),
    ("lost", "to"),
    ("schlechter", "als"),
}  # then the other
WORSE |= {("beaten", "by"), ("outperformed", "by"), ("peor", "que")}
THAN = _words("than to over als que dan")
REFERENCE = NOUNS | _words(
    "the other one second first 1 2 a b two die der la el le zweite erste deuxième seconde première segunda primera "
    "andere"
)  # after "than"
BOTH_NAMED = _words("both they two answers responses assistants beide deux ambas ambos entrambe")
BOTH_VERBS = _words("are were sind sont son sono")
EQUALLY = _words("equally gleich également igualmente ugualmente")
BOTH_BESIDE = _words("the these of them antworten les réponses respuestas le risposte")
BOTH = BOTH_NAMED | BOTH_VERBS | EQUALLY | BOTH_BESIDE
EQUAL_ALONE = _words(
    "equal equivalent identical tied same gleichwertig équivalentes équivalents égales iguales "
    "equivalentes equivalenti uguali"
)
EQUAL = EQUAL_ALONE | _words("good bad well helpful wrong correct strong gut schlecht bonnes buenas buone")
OVER = _words("beats outperforms surpasses over")  # "answer 2 beats answer 1", "I choose 2 over 1"
BECAUSE = _words("as because since weil denn car porque perché - \u2013 \u2014")
# A remark with one of these may take the verdict back.
AGAINST = _words(
    "but however although though if unless or nor not no never worse loses lost wrong incorrect "
    "incomplete weaker inferior lacks fails poor bad neither cannot hardly would could might maybe "
    "perhaps none nobody nothing"
)
FAREWELLS = (
    *("hope this helps", "hope that helps", "hope it helps", "i hope", "let me know", "please let me know"),
    *("feel free", "if you need", "if you have", "thank you", "thanks", "best regards", "kind regards", "regards"),
)
_CJK_NAME = r"(?:答案|回答|选项|選項|助手|回复|回覆|模型|답변|응답) ?"
_CJK_LEAD = (
    r"(?:評価|最终|最終|最後|认为|認為|综上|因此|所以|胜者|勝者|赢家|最佳|,|我|的|选择|選擇|选|评判|評判|判断|判斷|判定|裁决|裁決"
    r"|结果|結果|结论|結論|答案|回答|选项|助手|更好|的是|是|[: ])*"
)
CHINESE = (  # and Japanese, Korean: a verdict, or who is better
    rf"{_CJK_LEAD}([123AB])(?:更好|较好|較好|更优|胜出|勝出|赢)?[。.!]?",
    rf"{_CJK_NAME}([12AB])更好, ?因为[^\dAB一二两]+",
    rf"(?:{_CJK_NAME}[12AB]より)?{_CJK_NAME}([12AB])の(?:方|ほう)が(?:良い|よい|優れている|優れています|良いです)",
    rf"{_CJK_NAME}([12AB])[이가] 더 (?:좋습니다|낫습니다|우수합니다|좋다|낫다)",
)
CHINESE_OVER = rf"{_CJK_NAME}([12AB])比{_CJK_NAME}([12AB])(?:明显|明顯|稍|略)?(?:更好|更优|好|强|強)"
CHINESE_UNDER = rf"{_CJK_NAME}([12AB])不如{_CJK_NAME}([12AB])"
CHINESE_TIE = (
    rf"{_CJK_LEAD}(?:平局|平手|引き分け|打平|무승부"
    rf"|(?:两个答案|两个回答|两者|{_CJK_NAME}[1A]和{_CJK_NAME}[2B])(?:一样好|同样好|不相上下))"
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
