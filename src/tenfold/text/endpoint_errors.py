"""What can go wrong at an endpoint, told in one line: never the key, never more than a little of what a server says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tenfold.core.errors import UserError

SHOWN = 300  # characters of a server's message
SECRET = 8  # characters from which a key is one; shorter ones are stand-ins such as "none", found in any text
TRANSIENT = (408, 429)  # and everything from 500 on

_CONTEXT = re.compile(
    r"context[_ ](length|window|size)|maximum context|max_model_len|prompt is too long|too many (input )?tokens", re.I
)
_ADVICE = {
    401: "check the key (OPENAI_API_KEY or api_key=)",
    403: "check what the key may use",
    404: "check the model's name and base_url",
    429: "lower concurrency or wait, then run again",
}


class EndpointError(UserError):
    """An endpoint gave no usable answer.

    Args:
        message: one line.
        status: HTTP status of the last answer; None where there was none, or where it said 200.
        tries: how often it was asked.
    """

    def __init__(self, message: str, *, status: int | None = None, tries: int = 1) -> None:
        super().__init__(message)
        self.status = status
        self.tries = tries


class RefusedError(EndpointError):
    """The endpoint refuses the request for good: a wrong key, model or field, or no credit left."""


class ContextLengthError(RefusedError):
    """The conversation is longer than the model reads."""


class ChoiceError(EndpointError):
    """The endpoint answered outside `Sampling.choices`; `text` is what it said."""

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text


class Fault(Exception):
    """One try that failed in a way that may pass; `retry_after` is the server's header."""

    def __init__(self, reason: str, *, status: int | None = None, retry_after: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after


class BodyFault(Fault):
    """An answer that has not the form of a reply."""


def shown(text: object, secret: str | None = None) -> str:
    """Foreign text as it may be printed: on one line, control characters escaped, cut, without the secret."""
    plain = str(text)
    if secret is not None and len(secret) >= SECRET:
        plain = plain.replace(secret, "***")
    plain = plain[: SHOWN + 1]
    escaped = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in plain)
    return escaped if len(escaped) <= SHOWN else escaped[: SHOWN - 1] + "…"


def from_status(status: int, body: Any, retry_after: str | None, where: str, secret: str | None) -> Exception:
    """The error of an HTTP status that is no success.

    Args:
        status, body: of the answer, the body as far as it could be parsed.
        retry_after: the header.
        where: the model and its address.
        secret: the key, which a server may repeat.
    Returns:
        A `Fault` where another try may help, else a `RefusedError`.
    """
    said = server_message(body)
    code = body.get("code") if isinstance(body, Mapping) else None
    if code != "insufficient_quota" and (status in TRANSIENT or status >= 500):
        return Fault(shown(said, secret), status=status, retry_after=retry_after)
    if code == "context_length_exceeded" or (status in (400, 413, 422) and _CONTEXT.search(said[:2000])):
        return ContextLengthError(
            f"{where}: the conversation is too long: {shown(said, secret)}; shorten it or lower max_tokens",
            status=status,
        )
    return RefusedError(f"{where}: {status}: {shown(said, secret)}{advice(status)}", status=status)


def exhausted(fault: Fault, tries: int, where: str) -> EndpointError:
    """The error after the last try."""
    status = "" if fault.status is None else f"{fault.status}: "
    plural = "y" if tries == 1 else "ies"
    usual = "see whether the server runs, then run again"
    if isinstance(fault, BodyFault):
        usual = "see whether the address is that of an OpenAI-compatible API, which often ends in /v1"
    help_ = advice(fault.status) or f"; {usual}"
    return EndpointError(
        f"{where}: no answer after {tries} tr{plural}: {status}{fault}{help_}", status=fault.status, tries=tries
    )


def advice(status: int | None) -> str:
    """What the user can do about a status, as the end of a line."""
    return f"; {_ADVICE[status]}" if status in _ADVICE else ""


def server_message(body: Any) -> str:
    """The message in an error body: OpenAI's, FastAPI's, or the text as it stands."""
    if isinstance(body, Mapping):
        body = next((body[name] for name in ("message", "detail", "error") if body.get(name)), body)
    return str(body if body else "(no message)")
