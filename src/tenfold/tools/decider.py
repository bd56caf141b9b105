"""Decisions of a chat model on samples: to search or not; then, with the sample's candidates shown, which tool or none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tenfold.core.errors import UserError
from tenfold.text.chat import run_sync
from tenfold.text.concurrency import Gate, gather
from tenfold.text.messages import ChatModel, Message, Sampling
from tenfold.tools import render
from tenfold.tools.arguments import ToolArgumentError, parse_arguments
from tenfold.tools.calls import Call
from tenfold.tools.choice import NoChoiceError, choose
from tenfold.tools.metrics import Prediction
from tenfold.tools.samples import Candidate, DecisionSample
from tenfold.tools.signatures import SignatureError, parse_signature
from tenfold.tools.tool import Tool, ToolRegistry


class ChatDecider:
    """Lets a chat model decide.

    Args:
        speaker: the model.
        demonstrations: solved samples shown before the query, as earlier turns of the conversation.
        concurrency: samples at a time.
        constrained: decode decisions as one of their choices.
        max_tokens: of a call's arguments.
        decides: False leaves no decision: it always searches and names a tool, as a model whose marker token triggers a call.
    """

    def __init__(
        self,
        speaker: ChatModel,
        demonstrations: Sequence[DecisionSample] = (),
        *,
        concurrency: int = 32,
        constrained: bool = True,
        max_tokens: int = 128,
        decides: bool = True,
    ) -> None:
        self.speaker, self.constrained, self.max_tokens = speaker, constrained, max_tokens
        self.decides = decides
        self._gate = Gate(concurrency)
        self._shown: list[Message] = []
        for sample in demonstrations:
            turns = [Message("user", sample.query), *render.render(sample)[2:]]
            cut = next((index for index, turn in enumerate(turns) if turn.tool_calls), len(turns))
            self._shown += turns[: cut - 1 if cut < len(turns) else cut]

    def decide(self, samples: Sequence[DecisionSample], *, arguments: bool = False) -> list[Prediction]:
        """One prediction each; the candidates are the sample's own, shown after a decision to search.

        Args:
            samples: to decide on.
            arguments: also have the call of a chosen tool written.
        """
        return run_sync(gather(self._one(sample, arguments) for sample in samples))

    async def _one(self, sample: DecisionSample, arguments: bool) -> Prediction:
        async with self._gate:
            system, query = render.opening(sample.query)
            messages = [system, *self._shown, query]
            search, p_search = True, None
            if self.decides:
                try:
                    first = await choose(
                        self.speaker, messages, (render.SEARCH, render.ANSWER), constrained=self.constrained
                    )
                except NoChoiceError:
                    return Prediction(False, complete=False)
                except UserError as error:  # such as a conversation longer than the model reads
                    raise UserError(f"{sample.query[:40]!r}: {error}") from None
                sure = None if first.logprob is None else math.exp(min(0.0, first.logprob))
                search = first.text == render.SEARCH
                p_search = None if sure is None else sure if search else 1 - sure
            if not search or not sample.candidates:
                return Prediction(search, p_search=p_search)
            messages += [Message("assistant", render.SEARCH), render.offer(sample.candidates)]
            names = (*sample.names, render.NONE) if self.decides else sample.names
            try:
                second = await choose(self.speaker, messages, names, constrained=self.constrained)
            except NoChoiceError:
                return Prediction(True, p_search=p_search, complete=False)
            p_choice = None if second.logprob is None else math.exp(min(0.0, second.logprob))
            found = Prediction(True, None if second.text == render.NONE else second.text, p_search=p_search, p_choice=p_choice)  # fmt: skip
            if found.choice is None or not arguments:
                return found
            chosen = next(each for each in sample.candidates if each.name == found.choice)
            return await self._called(found, chosen, [*messages, Message("assistant", found.choice)])

    async def _called(self, found: Prediction, chosen: Candidate, messages: list[Message]) -> Prediction:
        """The call of the chosen tool, as an agent asks for it; only that it is an object is checked here."""
        try:
            tool = Tool(name=chosen.name, description=chosen.description, parameters=parse_signature(chosen.signature, mend=True).parameters)  # fmt: skip
        except SignatureError:
            return found
        (described,) = ToolRegistry([tool]).to_openai(strict=False)
        named = {"type": "function", "function": {"name": described["function"]["name"]}}
        sampling = Sampling(temperature=0.0, max_tokens=self.max_tokens, tools=(described,), tool_choice=named)
        (reply,) = await self.speaker.complete([*messages, render.ask_arguments(chosen)], sampling)
        written = reply.tool_calls[0].arguments if reply.tool_calls else reply.text
        try:
            values = parse_arguments(written, Tool(name=chosen.name, parameters={"type": "object"}), repair=True).values
        except ToolArgumentError:
            return replace(found, unreadable=True)
        return replace(found, call=Call(chosen.name, values))
