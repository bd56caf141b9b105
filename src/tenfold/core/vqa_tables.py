"""From the source of the public VQA evaluation to its tables as JSON; the program is read, never run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence

# Our name of a table: the name it is assigned to there.
TABLES = {"contractions": "contractions", "numbers": "manualMap", "punctuation": "punct", "articles": "articles"}


def vqa_tables(origins: Sequence[bytes]) -> bytes:
    """An object of `TABLES`, one value a line, of the single origin."""
    (content,) = origins
    source = content.decode()
    return json.dumps({name: _literal(source, theirs) for name, theirs in TABLES.items()}, indent=0).encode()


def _literal(source: str, name: str) -> object:
    found = re.search(rf"self\.{name}\s*=(.*?)\n\s*(?:self\.|def )", source, re.DOTALL)
    if found is None:
        raise ValueError(f"program: got no table {name} in it, need the public VQA evaluation")
    return ast.literal_eval(found[1].strip())
