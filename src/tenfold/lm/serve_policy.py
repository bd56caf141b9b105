"""What a server's owner may have checked: every request before the model is asked, every answer before it is handed out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tenfold.lm.serve_format import ApiError
from tenfold.text.messages import Message

FILTERED = "content_filter"  # the finish reason of an answer that the policy gave in the model's place


@dataclass(frozen=True)
class Exchange:
    """What a policy judges.

    Args:
        model: the name that the request asked for.
        messages: the conversation; of /v1/completions the prompt, as a user's turn.
        answer: the model's, calls of tools included as it wrote them; None before the model is asked.
    """

    model: str
    messages: tuple[Message, ...]
    answer: str | None = None


class Policy(Protocol):
    """A check of requests and answers; it is called in threads, many at a time."""

    def __call__(self, exchange: Exchange) -> str | None:
        """None lets the request or the answer pass; a text is what the client gets instead."""
        ...


def verdict(policy: Policy, exchange: Exchange) -> str | None:
    """What a policy says; one that fails lets nothing pass.

    Raises:
        ApiError: 500, the policy raised, or gave something else than text or None.
    """
    try:
        said = policy(exchange)
    except Exception as error:
        raise ApiError(
            500, f"internal error: the policy failed: {type(error).__name__}", kind="server_error"
        ) from error
    if said is not None and not isinstance(said, str):
        raise ApiError(500, "internal error: the policy gave no text", kind="server_error")
    return said
