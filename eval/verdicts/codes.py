"""The codes of verdicts in files, and the name of the control contestant.

Source: QLoRA (arXiv 2305.14314), section 5.2: the judge's last line is 1, 2 or 3; its released files have -1 where
none could be read.
"""

FIRST = 1  # the answer shown first is better
SECOND = 2
TIE = 3
UNPARSED = -1

NULL_SYSTEM = "null-model"  # the control contestant, whose one constant answer no trustworthy judge ranks high
