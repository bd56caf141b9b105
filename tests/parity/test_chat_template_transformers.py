"""Chat templates against transformers' `apply_chat_template`: the same environment gives the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tenfold.core.errors import UserError
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <b>brief</b> & naïve 😀"},
    {"role": "user", "content": "skip", "name": None},
    {"role": "user", "content": " 2 + 2?\n"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"b": 2, "a": [2.5, True]}}]},
    {"role": "tool", "content": "stop"},
    {"role": "user", "content": "never"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
TEMPLATES = {
    "tojson": "{{ bos_token }}{% for m in messages %}{{ m | tojson }}<|end|>\n{% endfor %}",
    "tojson_options": "{{ tools | tojson(indent=2) }}{{ tools | tojson(ensure_ascii=True, separators=(',', ':')) }}",
    "loop_controls": (
        "{% for m in messages %}{% if m.content == 'skip' %}{% continue %}{% endif %}"
        "{% if m.content == 'stop' %}{% break %}{% endif %}<|user|>{{ m.content }}{% endfor %}"
    ),
    "generation": (
        "{% set seen = 'outer' %}{% for m in messages %}\n"
        "  {%- generation -%}\n  {% set seen = 'inner' %} {{ m.role }} {{ loop.index }}\n  {% endgeneration %}\n"
        "{% endfor %}{{ seen }}"
    ),
    "blocks": "{% if true %}\n    <|user|>\n{% endif %}\n  {% for m in messages %}\n- {{ m.role }}\n  {% endfor %}\n",
    "absent": "{{ tools is none }} {{ documents is none }} {{ other is defined }} {{ messages[3].content is defined }}",
    "time": "{{ strftime_now('%Y') }}",
    "state": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["The cat sat on the mat 123 times.\n"] * 20, 300).save(folder)
    return folder


def both(folder: Path, template: str) -> tuple[Tokenizer, Any]:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_same_tokens(name: str, folder: Path) -> None:
    ours, theirs = both(folder, TEMPLATES[name])
    variables = {"tools": TOOLS} if "tools |" in TEMPLATES[name] else {}
    expected = theirs.apply_chat_template(MESSAGES, **variables)["input_ids"]
    assert ours.apply_chat_template(MESSAGES, **variables) == expected


def test_both_raise(folder: Path) -> None:
    ours, theirs = both(folder, "{{ raise_exception('only two turns') }}")
    with pytest.raises(Exception, match="only two turns"):
        theirs.apply_chat_template(MESSAGES)
    with pytest.raises(UserError, match="only two turns"):
        ours.apply_chat_template(MESSAGES)
