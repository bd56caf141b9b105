"""Replies without the tags that were asked for, from optimizers too small to write them: the whole reply counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tenfold.prompts.roles import parse_tags, tagged
from tenfold.text.budget import Budget
from tenfold.text.messages import SAMPLING, ChatModel, Message, Reply, Sampling

_ASKED = re.compile(r"between <(\w+)> and </\1>")


class WholeReplies:
    """An optimizer whose reply without a span of the tag that it was asked for becomes one such span.

    So a reply "Count each kind first." to a request for an instruction between <prompt> and </prompt> is that
    instruction. Where several tags are asked for, the last. Replies that have the tag, and empty ones, stay as they are.

    Args:
        model: that writes prompts.
    """

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self.identity: str = f"{getattr(model, 'identity', model.name)}, whole replies"
        self._model = model

    def with_budget(self, budget: Budget) -> ChatModel:
        """The same over a model that is charged."""
        return WholeReplies(budget.wrap(self._model))

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """The model's replies, tagged."""
        replies = await self._model.complete(messages, sampling, n)
        asked = _ASKED.findall(messages[-1].content) if messages else []
        if not asked:
            return replies
        return [
            reply
            if any(parse_tags(reply.text, tag) for tag in asked) or not reply.text.strip()
            else replace(reply, text=tagged(asked[-1], reply.text.strip()))
            for reply in replies
        ]
