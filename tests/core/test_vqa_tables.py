"""Tables read out of a program that is not run."""

from __future__ import annotations

import json

import pytest

from tenfold.core.vqa_tables import vqa_tables

PROGRAM = """import nothing_of_that_name
class VQAEval:
\tdef __init__(self, n=2):
\t\tself.n = n
\t\tself.contractions = {"aint": "ain't", \\
\t\t\t\t "yall": "y'all"}
\t\tself.manualMap    = { 'none': '0',
\t\t\t\t\t'one': '1' }
\t\tself.articles     = ['a',
\t\t\t\t\t'the'
\t\t\t\t\t]

\t\tself.periodStrip  = re.compile("x")
\t\tself.punct        = [';', r"/", '}',
\t\t\t\t\t'!']

\t
\tdef evaluate(self):
\t\tprint "a statement of another age"
"""


def test_tables_as_json() -> None:
    assert json.loads(vqa_tables([PROGRAM.encode()])) == {
        "contractions": {"aint": "ain't", "yall": "y'all"},
        "numbers": {"none": "0", "one": "1"},
        "punctuation": [";", "/", "}", "!"],
        "articles": ["a", "the"],
    }


def test_only_literals_are_read() -> None:
    with pytest.raises(ValueError, match="malformed"):
        vqa_tables([PROGRAM.replace("""{"aint": "ain't", \\""", """{"aint": print("run"), \\""").encode()])
    with pytest.raises(ValueError, match="got no table articles"):
        vqa_tables([PROGRAM.replace("articles", "article").encode()])
