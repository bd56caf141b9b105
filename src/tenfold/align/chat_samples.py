"""Conversations as token rows: the chat template's own text, with the turns that are learned marked token by token."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tenfold.align.samples import Sample
from tenfold.core.errors import UserError
from tenfold.text.chat_template import render_parts
from tenfold.text.messages import Message, ToolCall
from tenfold.text.tokenizer import Tokenizer
from tenfold.text.tool_calls import template_input


def chat_sample(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    learn: Collection[int] | None = None,
    given: Mapping[int, Sequence[tuple[int, int]]] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Sample:
    """A conversation in the tokenizer's chat template; learned is what the model itself would have to say.

    Of a learned turn that is every token behind the opening that the template gives a generation prompt, up to and with
    the token that ends the turn. Text is encoded piece by piece, cut where the model would take over, so that a row
    begins with exactly the tokens of the prompt that it will be given.

    Args:
        tokenizer: with a chat template.
        messages: the turns.
        learn: indices of the learned turns; None: all of the assistant's. Learned turns of other roles are learned from
            the end of the turn before, opening included.
        given: turn to ranges of characters of its content that are not learned, such as what a tool wrote into it.
        tools: offered to the model, as OpenAI writes them.
    Returns:
        the row, uncut.
    Raises:
        UserError: no learned turn, or a template that rewrites earlier turns, closes a turn with no end token, or
            changes a text with given ranges.
    """
    wanted = [i for i, m in enumerate(messages) if m.role == "assistant"] if learn is None else sorted(learn)
    if not wanted:
        raise UserError("messages: got no assistant turn, need one to learn from")
    for turn in wanted:
        if not 0 < turn < len(messages):
            raise UserError(
                f"messages: turn {turn + 1} is to be learned, need one of 2..{len(messages)}, behind a prompt"
            )
    shown, variables = template_input(messages, tools, tokenizer.chat_template)
    rendering = _Rendering.of(tokenizer, shown, variables)
    learned: list[tuple[int, int]] = []
    for turn in wanted:
        own = messages[turn].role == "assistant"
        at = turn + len(shown) - len(messages)  # the tools may stand in a system turn of their own
        before = _Rendering.of(tokenizer, shown[:at], variables, opening=own)
        until = rendering if at + 1 == len(shown) else _Rendering.of(tokenizer, shown[: at + 1], variables)
        if not (until.starts_with(before) and rendering.starts_with(until)):
            raise UserError(
                f"messages: the chat template writes turn {turn + 1} otherwise where more turns follow; "
                "make one row for every assistant turn, ending with it"
            )
        start, stop = len(before.text), rendering.end_of_turn(tokenizer, len(before.text), len(until.text))
        ranges = (given or {}).get(turn, ())
        content = rendering.text.find(messages[turn].content, start, stop)
        if ranges and content < 0:
            raise UserError(f"messages: the chat template changes the text of turn {turn + 1}, which has given parts")
        for first, last in sorted(ranges):
            learned.append((start, content + first))
            start = content + last
        learned.append((start, stop))
    return rendering.sample(tokenizer, learned)


def prompt_ids(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
    """Token ids of a conversation up to the opening of the assistant's next turn."""
    shown, variables = template_input(messages, tools, tokenizer.chat_template)
    return tokenizer.apply_chat_template(shown, add_generation_prompt=True, **variables)


def read_messages(rows: Any, where: str = "messages") -> list[Message]:
    """Messages in OpenAI's form, `[{"role", "content", "tool_calls", "tool_call_id"}, …]`.

    Args:
        rows: a list of objects; content is text, null beside tool calls, or a list of text parts.
        where: what opens the message of an error.
    Raises:
        UserError: another shape, an unknown role, pictures.
    """
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where}: got {type(rows).__name__}, need a list of messages, at least one")
    return [_message(row, f"{where}[{index}]") for index, row in enumerate(rows)]


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise UserError(f"{where}: got {type(row).__name__}, need an object with role and content")
    content = row.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if content is None and row.get("tool_calls"):
        content = ""
    try:
        calls = tuple(
            ToolCall(str(call.get("id", "")), call["function"]["name"], _spelt(call["function"]["arguments"]))
            for call in row.get("tool_calls") or ()
        )
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{where}: tool_calls: need a list of {{function: {{name, arguments}}}}") from None
    try:
        return Message(row.get("role"), content, tool_calls=calls, tool_call_id=row.get("tool_call_id"))  # type: ignore[arg-type]
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _spelt(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


@dataclass(frozen=True)
class _Rendering:
    """A conversation as the template writes it.

    Args:
        text: all of it.
        controls: offset in the text to the control token that the template wrote there.
    """

    text: str
    controls: Mapping[int, str]

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, rows: list[dict], variables: Mapping[str, Any], opening: bool = False
    ) -> _Rendering:
        if tokenizer.chat_template is None:
            raise UserError("chat template: this tokenizer has none; take one whose tokenizer_config.json names it")
        variables = {**variables, "add_generation_prompt": opening}
        names = ("bos_token", "eos_token", "pad_token")
        tokens = {name: getattr(tokenizer, name) or "" for name in names}
        text, controls = "", {}
        for part, control in render_parts(tokenizer.chat_template, rows, variables, tokens, _control_ids(tokenizer)):
            if control:
                controls[len(text)] = part
            text += part
        return cls(text, controls)

    def starts_with(self, other: _Rendering) -> bool:
        mine = {at: token for at, token in self.controls.items() if at < len(other.text)}
        return self.text.startswith(other.text) and mine == other.controls

    def end_of_turn(self, tokenizer: Tokenizer, start: int, stop: int) -> int:
        """The offset behind the first token within `start`..`stop` that ends a turn."""
        ends = {tokenizer.end_token, tokenizer.eos_token}
        for at, token in self.controls.items():
            if start <= at < stop and token in ends:
                return at + len(token)
        raise UserError(
            f"chat template: it closes no turn with {tokenizer.end_token!r}; a model that learned from it would never stop"
        )

    def sample(self, tokenizer: Tokenizer, learned: Sequence[tuple[int, int]]) -> Sample:
        """Its tokens, cut also where a learned range begins or ends; those inside one are learned."""
        known = _control_ids(tokenizer)
        edges = {0, len(self.text), *(edge for part in learned for edge in part)}
        edges |= {edge for at, token in self.controls.items() for edge in (at, at + len(token))}
        ids: list[int] = []
        flags: list[bool] = []
        for start, stop in pairwise(sorted(edges)):
            control = self.controls.get(start)
            piece = tokenizer.encode(self.text[start:stop]) if control is None else [known[control]]
            ids += piece
            flags += [any(first <= start < last for first, last in learned)] * len(piece)
        return Sample(tuple(ids), tuple(flags))


def _control_ids(tokenizer: Tokenizer) -> dict[str, int]:
    added = tokenizer.backend.get_added_tokens_decoder()
    return {token.content: id for id, token in added.items() if token.special}
