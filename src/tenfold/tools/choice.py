"""One of several strings out of a model: by constrained decoding where it can, by asking again where it cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.core.errors import UserError
from tenfold.text.endpoint_errors import ChoiceError
from tenfold.text.messages import ChatModel, Message, Reply, Sampling

TRIES = 3  # an answer, and two repairs


class NoChoiceError(UserError):
    """A model named none of the choices, however often it was asked."""


@dataclass(frozen=True)
class Chosen:
    """A choice.

    Args:
        text: the choice.
        replies: all that was said, the last one decided.
        logprob: ln p of the choice, where the model tells.
    """

    text: str
    replies: tuple[Reply, ...]
    logprob: float | None = None


async def choose(
    speaker: ChatModel,
    messages: Sequence[Message],
    choices: Sequence[str],
    *,
    constrained: bool = True,
    tries: int = TRIES,
) -> Chosen:
    """One of the choices.

    Args:
        speaker: asked greedily.
        messages: what it sees.
        choices: different strings.
        constrained: let the model say nothing but a choice (`Sampling.choices`). Whatever it does, what is none of the
            choices to the letter is none.
        tries: replies at most.
    Raises:
        NoChoiceError: none of the replies is a choice.
    """
    length = max(32, *(2 * len(choice) for choice in choices))
    replies: list[Reply] = []
    asked = list(messages)
    for _ in range(tries):
        sampling = Sampling(temperature=0.0, max_tokens=length, choices=tuple(choices) if constrained else None, logprobs=constrained)  # fmt: skip
        try:
            (reply,) = await speaker.complete(asked, sampling)
            said = reply.text
            replies.append(reply)
        except ChoiceError as error:  # an endpoint that does not keep to choices
            said, constrained = error.text or "", False
        found = matched(said, choices)
        if found is not None:
            logprob = sum(reply.logprobs) if constrained and reply.logprobs else None
            return Chosen(found, tuple(replies), logprob)
        asked = [*messages, Message("assistant", said[:300]), Message("user", f"Say exactly one of: {', '.join(choices)}.")]  # fmt: skip
    raise NoChoiceError(f"choice: {tries} replies named none of the {len(choices)} choices, the last was {said[:60]!r}")


def matched(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a text is, but for blanks, quotes and a full stop around it; never a similar one."""
    stripped = text.strip()
    for candidate in (text, stripped, stripped.strip("\"'`").rstrip(".").strip("\"'`")):
        if candidate in choices:
            return candidate
    return None
