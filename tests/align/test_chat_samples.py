"""Conversations as rows: the template's tokens, the assistant's learned, and the prompts the model will be given."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.align.chat_samples import chat_sample, prompt_ids, read_messages
from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.text.messages import Message, Sampling, ToolCall
from tenfold.text.tokenizer import Tokenizer

CHAT = [
    Message("system", "Be short."),
    Message("user", "one and two?"),
    Message("assistant", "three"),
    Message("user", "yes?"),
    Message("assistant", "I do not know"),
]
# Like SmolLM2's: text between the control tokens belongs to the header and to what follows the turn.
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|system|>system\nYou help.<|end|>\n' }}{% endif %}"
    "{{ '<|user|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|end|>' ~ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "add", "description": "sum", "parameters": {"type": "object"}}}


@pytest.fixture
def chatml(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer(tokenizer.backend, bos_token="<s>", eos_token="</s>", end_token="<|end|>", chat_template=CHATML)


def learned_text(tokenizer: Tokenizer, *arguments, **keywords) -> list[str]:  # type: ignore[no-untyped-def]
    """The learned spans of a sample as text."""
    sample = chat_sample(tokenizer, *arguments, **keywords)
    spans: list[list[int]] = []
    for i, (id, on) in enumerate(zip(sample.ids, sample.learned, strict=True)):
        if on:
            if not sample.learned[i - 1]:
                spans.append([])
            spans[-1].append(id)
    return [tokenizer.decode(span) for span in spans]


def test_the_assistants_turns_and_their_ends_are_learned(tokenizer: Tokenizer) -> None:
    sample = chat_sample(tokenizer, CHAT)
    rows = [{"role": message.role, "content": message.content} for message in CHAT]
    assert list(sample.ids) == tokenizer.apply_chat_template(rows)
    assert learned_text(tokenizer, CHAT) == ["three<|end|>", "I do not know<|end|>"]
    assert learned_text(tokenizer, CHAT, learn=[4]) == ["I do not know<|end|>"]


def test_text_behind_the_end_token_is_not_learned(chatml: Tokenizer) -> None:
    assert learned_text(chatml, CHAT) == ["three<|end|>", "I do not know<|end|>"]
    assert chatml.decode(chat_sample(chatml, CHAT).ids).endswith("know<|end|>\n")


def test_a_turn_of_another_role_is_learned_with_its_opening(tokenizer: Tokenizer) -> None:
    chat = [CHAT[1], Message("assistant", "add"), Message("tool", "3"), Message("assistant", "three")]
    assert learned_text(tokenizer, chat) == ["add<|end|>", "three<|end|>"]
    # The tool's turn follows at once, so both make one span.
    assert learned_text(tokenizer, chat, learn=[1, 2]) == ["add<|end|><|tool|>3<|end|>"]


def test_what_was_written_into_a_turn_is_not_learned(tokenizer: Tokenizer) -> None:
    chat = [CHAT[1], Message("assistant", "sum of <three> is <two> I know")]
    ranges = [chat[1].content.index(part) for part in ("<three>", "<two>")]
    given_parts = {1: [(ranges[0], ranges[0] + 7), (ranges[1], ranges[1] + 5)]}
    assert learned_text(tokenizer, chat, given=given_parts) == ["sum of ", " is ", " I know<|end|>"]
    sample = chat_sample(tokenizer, chat, given=given_parts)
    assert tokenizer.decode(sample.ids) == tokenizer.decode(chat_sample(tokenizer, chat).ids)
    assert learned_text(tokenizer, chat, given={1: [(0, len(chat[1].content))]}) == ["<|end|>"]
    loud = CHATML.replace("message['content'] ~", "message['content'] | upper ~")
    shouting = Tokenizer(tokenizer.backend, eos_token="</s>", end_token="<|end|>", chat_template=loud)
    with pytest.raises(UserError, match="changes the text of turn 2, which has given parts"):
        chat_sample(shouting, chat, given=given_parts)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=2, max_size=6),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_row_begins_with_the_prompt_the_model_is_given(texts: list[str], ours: bool) -> None:
    """Also where the response's text would merge with the header's, and where texts hold control tokens literally."""
    from tenfold.text.tokenizer import train_tokenizer

    base = _trained(train_tokenizer)
    tokenizer = base if ours else Tokenizer(base.backend, eos_token="</s>", end_token="<|end|>", chat_template=CHATML)
    texts = [text + "<|end|>" * (i % 3 == 2) for i, text in enumerate(texts)][: len(texts) // 2 * 2]
    chat = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    sample = chat_sample(tokenizer, chat, learn=[len(chat) - 1])
    prompt = prompt_ids(tokenizer, chat[:-1])
    assert list(sample.ids[: len(prompt)]) == prompt
    response = [id for id, on in zip(sample.ids, sample.learned, strict=True) if on]
    assert list(sample.ids[len(prompt) : len(prompt) + len(response)]) == response
    assert response[-1] == tokenizer.end_id
    assert response.count(tokenizer.end_id) == 1
    assert response[:-1] == tokenizer.encode(texts[-1])


_kept: list[Tokenizer] = []


def _trained(train) -> Tokenizer:  # type: ignore[no-untyped-def]
    if not _kept:
        _kept.append(train(["what is the sum of one and two?\n\n the answer\n"] * 20, 330))
    return _kept[0]


def test_tools_and_calls_stand_as_the_chat_model_writes_and_reads_them(tokenizer: Tokenizer, decoder) -> None:  # type: ignore[no-untyped-def]
    call = ToolCall("1", "add", '{"a": 1}')
    chat = [CHAT[1], Message("assistant", "", tool_calls=(call,))]
    assert learned_text(tokenizer, chat, tools=[TOOL]) == [
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|end|>'
    ]
    with LocalChatModel(decoder(max_len=2048), tokenizer) as model:
        asked = model.prompt(chat[:1], Sampling(tools=(TOOL,)))
    assert prompt_ids(tokenizer, chat[:1], [TOOL]) == asked
    assert list(chat_sample(tokenizer, chat, tools=[TOOL]).ids[: len(asked)]) == asked


def test_a_template_that_knows_tools_gets_them_as_objects(tokenizer: Tokenizer) -> None:
    template = (
        "{% for t in tools or [] %}{{ t.function.name }};{% endfor %}{% for m in messages %}<|user|>{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments.a }}{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|user|>{% endif %}"
    )
    knows = Tokenizer(tokenizer.backend, eos_token="</s>", end_token="<|end|>", chat_template=template)
    chat = [CHAT[1], Message("assistant", "yes", tool_calls=(ToolCall("1", "add", '{"a": 7}'),))]
    assert learned_text(knows, chat, tools=[TOOL]) == ["yes7<|end|>"]
    assert knows.decode(chat_sample(knows, chat, tools=[TOOL]).ids).startswith("add;<|user|>")


def test_messages_in_openais_form() -> None:
    rows = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]
    assert read_messages(rows) == [
        Message("user", "ab"),
        Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"),)),
        Message("tool", "3", tool_call_id="1"),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("hello", "x: got str, need a list of messages"),
        ([], "x: got list, need a list of messages, at least one"),
        (["hello"], r"x\[0\]: got str, need an object"),
        ([{"role": "robot", "content": "a"}], r"x\[0\]: role: got 'robot'"),
        ([{"role": "user"}], r"x\[0\]: content: got NoneType, need text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], r"x\[0\]: content: got list, need text"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}], r"x\[0\]: tool_calls: need"),
        ([{"role": "assistant", "content": "", "tool_calls": "f"}], r"x\[0\]: tool_calls: need"),
    ],
)
def test_bad_messages(rows: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_messages(rows, "x")


def test_conversations_nobody_can_learn_from(tokenizer: Tokenizer) -> None:
    for chat, learn, message in (
        (CHAT[:2], None, "got no assistant turn"),
        (CHAT[2:3], None, "turn 1 is to be learned, need one of 2..1, behind a prompt"),
        (CHAT, [2, 7], "turn 8 is to be learned, need one of 2..5"),
    ):
        with pytest.raises(UserError, match=message):
            chat_sample(tokenizer, chat, learn=learn)
    bare = Tokenizer(tokenizer.backend, eos_token="</s>")
    with pytest.raises(UserError, match="this tokenizer has none"):
        chat_sample(bare, CHAT)
    endless = (
        "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}"
    )
    with pytest.raises(UserError, match=r"closes no turn with '<\|end\|>'"):
        chat_sample(Tokenizer(tokenizer.backend, end_token="<|end|>", chat_template=endless), CHAT)
    forgetful = (  # shows all turns but the last in capitals, as templates do that drop earlier reasoning
        "{% for m in messages %}<|user|>{{ m.content if loop.last else m.content | upper }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|user|>{% endif %}"
    )
    with pytest.raises(UserError, match="writes turn 3 otherwise where more turns follow"):
        chat_sample(Tokenizer(tokenizer.backend, end_token="<|end|>", chat_template=forgetful), CHAT)
