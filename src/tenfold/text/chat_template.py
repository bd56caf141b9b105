"""Chat templates as Hugging Face renders them, with what the caller brings kept apart from what the template writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tenfold.core.errors import UserError

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('role: got ' ~ message['role'] ~ ', need system, user, assistant or tool') }}{% endif %}"
    "{% if message['content'] is not string %}"
    "{{ raise_exception('content: got no text in message ' ~ loop.index ~ ', need a string') }}{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render_parts(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    tokens: Mapping[str, str],
    special: Iterable[str],
) -> list[tuple[str, bool]]:
    """A conversation as the template writes it, cut at the control tokens that the template itself wrote.

    Args:
        template: Jinja, in the environment that Hugging Face's templates are written for.
        messages: `{"role", "content"}` and whatever else the template reads; fields that are None are left out.
        variables: more names for the template. They and the messages may hold text, numbers, lists and dicts at any
            depth; any other object stands there as `<its type>`.
        tokens: names by which the template writes control tokens, `bos_token` and the like, with their texts.
        special: texts of all control tokens.
    Returns:
        (text, whether it is a control token), in order.
    Raises:
        UserError: no messages, one that is no dict, or the template refuses them.
    """
    if not messages:
        raise UserError("messages: got an empty list, need at least one message")
    for message in messages:
        if not isinstance(message, Mapping):
            raise UserError(f"messages: got {type(message).__name__}, need dicts with role and content")
    shown = [{key: value for key, value in message.items() if value is not None} for message in messages]
    shield = None
    try:
        shield = _Shield({"tools": None, "documents": None, **variables, "messages": shown}, special)
        text = _compiled(template).render({**tokens, **shield.variables})
    except Exception as error:  # a template can fail in every way that code can
        said = " ".join(str(error).split())
        said = said if shield is None else shield.restore(said)
        raise UserError(f"messages: the chat template refuses them: {said}") from error
    return [(part if control else shield.restore(part), control) for part, control in shield.split(text)]


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    """Compiled once: it takes 4 ms, many times what one conversation takes to render."""
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}` marks what the assistant says; it is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter sorts the keys and escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


class _Shield:
    """Hides control tokens that stand literally in the caller's texts while a template is rendered.

    Each becomes a number between two private-use characters that no text contains.
    """

    def __init__(self, variables: Mapping[str, Any], special: Iterable[str]) -> None:
        # Longest first, so that no control token hides inside another.
        self._tokens = sorted(special, key=len, reverse=True)
        plain = _plain(variables)
        everything = json.dumps(plain, ensure_ascii=False)
        free = (chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in everything)
        self._open, self._close = next(free), next(free)
        self.variables = self._hide(plain)

    def _hide(self, value: Any) -> Any:
        if isinstance(value, str):
            for i, token in enumerate(self._tokens):
                value = value.replace(token, f"{self._open}{i}{self._close}")
            return value
        if isinstance(value, dict):
            return {self._hide(key): self._hide(item) for key, item in value.items()}
        return [self._hide(item) for item in value] if isinstance(value, list) else value

    def restore(self, text: str) -> str:
        """The literal text again."""
        for i, token in enumerate(self._tokens):
            text = text.replace(f"{self._open}{i}{self._close}", token)
        return text

    def split(self, text: str) -> list[tuple[str, bool]]:
        """Cut rendered text at the control tokens: (part, whether it is one)."""
        parts = [(text, False)]
        for token in self._tokens:
            cut: list[tuple[str, bool]] = []
            for part, control in parts:
                if control:
                    cut.append((part, True))
                    continue
                first, *others = part.split(token)
                cut.append((first, False))
                for other in others:
                    cut += [(token, True), (other, False)]
            parts = [(part, control) for part, control in cut if part]
        return parts


def _plain(value: Any) -> Any:
    """A copy made of JSON's types, so that no object's own methods or text reach the template unseen."""
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"
