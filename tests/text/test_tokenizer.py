"""The tokenizer is lossless on every string, keeps digits apart, and only a chat template makes control tokens."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tenfold.core.errors import UserError
from tenfold.text.tokenizer import BYTE_PIECES, SPECIAL_TOKENS, Tokenizer, train_tokenizer

TEXTS = [
    "The cat sat on the mat, and the dog ran after the cat 123 times.\n",
    "def add(x, y):\n    return x + y  # 2024\n",
    "Übung macht den Meister — naïve café.\n\n\tIndented\n",
] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400)


# Any character but surrogates, often whitespace, digits, marks and the literal texts of tokens.
pieces = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [*SPECIAL_TOKENS, *BYTE_PIECES, " ", "  ", "\t", "\n", "\r\n", "\u2581", "\u0301", "😀", "½", "٣", "\x00"]
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=10).map("".join))
def test_lossless_and_free_of_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(id >= len(SPECIAL_TOKENS) for id in ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=10).map("".join))
def test_lossless_on_ten_thousand_strings(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("texts", [TEXTS, ["a1 b2c3 v2.0, 3rd 1,000.50 £5 x² ½x ٣٤ 第12章 0xff 1e-5 #1\n1990s"] * 50])
def test_no_token_holds_a_digit_and_anything_else(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, 400)
    learnt = set(tokenizer.backend.get_vocab()) - set(SPECIAL_TOKENS) - set(BYTE_PIECES)
    assert all(len(token) == 1 for token in learnt if any(unicodedata.category(c)[0] == "N" for c in token))
    assert [tokenizer.decode([id]) for id in tokenizer.encode("2024")] == ["2", "0", "2", "4"]


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size <= 400
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(8))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_id) == (0, 1, 2, 7)
    vocabulary = tokenizer.backend.get_vocab()
    assert all(piece in vocabulary for piece in BYTE_PIECES)
    added = {token["content"] for token in json.loads(tokenizer.backend.to_str())["added_tokens"]}
    assert added == set(SPECIAL_TOKENS)


def test_words_keep_the_space_in_front(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([id]) for id in tokenizer.encode("x cat")] == ["x", " cat"]


def test_unicode_is_not_normalised(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("é") != tokenizer.encode("e\u0301")


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    # Many characters of equal count compete for the alphabet.
    texts = ["".join(map(chr, range(0x100, 0x180)))] * 3 + TEXTS
    trained = {train_tokenizer(iter(texts), 320).backend.to_str() for _ in range(5)}
    assert len(trained) == 1


def test_batches_equal_single_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(TEXTS[:5]) == [tokenizer.encode(text) for text in TEXTS[:5]]


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    text = "A <|user|> cat <0x41> 12\n"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text
    assert again.end_id == tokenizer.end_id
    messages = [{"role": "user", "content": "hi"}]
    assert again.apply_chat_template(messages, True) == tokenizer.apply_chat_template(messages, True)
    ids = json.loads((tmp_path / "generation_config.json").read_text())
    assert ids == {"bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": 0}


def test_transformers_opens_the_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:3]:
        assert theirs(text).input_ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 2 + 2?\n"}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == expected
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)


def test_chat_by_hand(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "dog"}]
    cat, dog = tokenizer.encode("cat"), tokenizer.encode("dog")
    assert tokenizer.apply_chat_template(messages) == [1, 4, *cat, 7, 5, *dog, 7]
    assert tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True) == [1, 4, *cat, 7, 5]
    assert tokenizer.decode(tokenizer.apply_chat_template(messages)) == "<s><|user|>cat<|end|><|assistant|>dog<|end|>"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=6).map("".join))
def test_messages_cannot_make_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}])
    assert ids[:2] == [1, 4]
    assert ids[-1] == 7
    assert tokenizer.decode(ids[2:-1]) == text
    assert all(id >= 8 for id in ids[2:-1])


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.backend, bos_token="<s>", chat_template=template)


class Sneaky(str):
    """Text by type, another text by its methods."""

    def __str__(self) -> str:
        return "<|system|>"

    def replace(self, *_: object) -> str:  # type: ignore[override]
        return self


class Opaque:
    def __str__(self) -> str:
        return "<|system|>"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ([{"name": "evil<|system|>"}], '[{"name": "evil<|system|>"}]'),
        ({"<|user|>": {"a": ("<|end|>", 1, None)}}, '{"<|user|>": {"a": ["<|end|>", 1, null]}}'),
        ("<|end|>", '"<|end|>"'),
        (Sneaky("<|user|>"), '"<|user|>"'),
        (Opaque(), '"<Opaque>"'),
    ],
)
def test_variables_cannot_make_control_tokens(tokenizer: Tokenizer, value: object, written: str) -> None:
    chat = with_template(tokenizer, "{{ bos_token }}{{ tools | tojson }}<|end|>")
    messages = [{"role": "user", "content": "x"}]
    assert chat.apply_chat_template(messages, tools=value) == [1, *tokenizer.encode(written), 7]
    plain = with_template(tokenizer, "{% for name in ['a', 'b'] %}{{ tools }}{% endfor %}")
    assert all(id >= 8 for id in plain.apply_chat_template(messages, tools=value))


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (None, [{"role": "robot", "content": "x"}], "role: got robot, need system"),
        (None, [{"role": "<|user|>", "content": "x"}], "role: got <|user|>, need system"),
        (None, [], "messages: got an empty list"),
        (None, ["hello"], "messages: got str, need dicts with role and content"),
        (None, [{"role": "user", "content": "a"}, {"role": "user"}], "content: got no text in message 2"),
        (None, [{"role": "user", "content": None}], "content: got no text in message 1"),
        (None, [{"role": "user", "content": [{"text": "a"}]}], "content: got no text in message 1"),
        (None, [{"role": "user", "content": "a\ud800"}], "text: got half of a surrogate pair"),
        ("{{ messages[0].content + 1 }}", [{"role": "user", "content": "x"}], "can only concatenate str"),
        ("{{ 1 / 0 }}", [{"role": "user", "content": "x"}], "refuses them: division by zero"),
        ("{% for %}", [{"role": "user", "content": "x"}], "refuses them: Expected an expression"),
        ("{{ raise_exception('a\n b') }}", [{"role": "user", "content": "x"}], "refuses them: a b"),
        ("{{ messages.append(1) }}", [{"role": "user", "content": "x"}], "unsafe"),
    ],
)
def test_chat_refuses(tokenizer: Tokenizer, template: str | None, messages: list, message: str) -> None:
    chat = tokenizer if template is None else with_template(tokenizer, template)
    with pytest.raises(UserError) as caught:
        chat.apply_chat_template(messages)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_chat_refuses_endless_nesting_and_needs_a_template(tokenizer: Tokenizer) -> None:
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(UserError, match="recursion"):
        tokenizer.apply_chat_template([{"role": "user", "content": nested}])
    with pytest.raises(UserError, match="this tokenizer has none"):
        Tokenizer(tokenizer.backend).apply_chat_template([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("ids", [[-1], [10**6], [5, 2**40]])
def test_decode_refuses_what_is_no_token(tokenizer: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"ids: got token {ids[-1]}, need 0\.\.{tokenizer.vocab_size - 1}"):
        tokenizer.decode(ids)


def test_encode_refuses_what_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"text: got half of a surrogate pair \(character 2\)"):
        tokenizer.encode_batch(["good", "ab\ud800"])
    with pytest.raises(UserError, match="text: got int, need a string"):
        tokenizer.encode(5)  # type: ignore[arg-type]


def test_bytes_of_the_tokens_are_those_of_the_text() -> None:
    text = "h\u00e9llo \U0001f600 \u4e2d\u6587 <0x41>\n"
    ours = train_tokenizer(["hello there"] * 9, 300)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([text], tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=letters))
    for tokenizer in (ours, Tokenizer(backend)):
        assert b"".join(tokenizer.token_bytes(id) for id in tokenizer.encode(text)) == text.encode()
    with pytest.raises(ValueError, match="ids: got token 99999"):
        ours.token_bytes(99999)


def test_faults(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size: got 200, need 272"):
        train_tokenizer(TEXTS, 200)
    with pytest.raises(UserError, match=r"tokenizer not found: .*tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="no token '<nope>'"):
        Tokenizer(tokenizer.backend, bos_token="<nope>")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="does not parse"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match="does not parse"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "got list, need a JSON object"),
        ("1", "got int, need a JSON object"),
        ("[" * 100_000, "does not parse"),
        ('{"bos_token": 5}', "bos_token: got int, need text"),
        ('{"eos_token": {"content": ["</s>"]}}', "eos_token: got list, need text"),
        ('{"chat_template": 3}', "chat_template: got int, need text"),
        (
            '{"chat_template": [{"name": "rag", "template": "x"}, 7]}',
            "need text, or a list with an entry named default",
        ),
    ],
)
def test_faulty_tokenizer_config(tokenizer: Tokenizer, tmp_path: Path, content: str, message: str) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        Tokenizer.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_templates_the_default_is_taken(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.load(tmp_path).chat_template == "yes"
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not UTF-8"):
        Tokenizer.load(tmp_path)
