"""A decoder of ours as a chat model: conversations in, replies out, many at a time."""

from __future__ import annotations

import asyncio
import copy
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tenfold.core.errors import UserError
from tenfold.core.threads import release_compute_threads
from tenfold.lm.decoder import Decoder
from tenfold.lm.engine import Engine, request_seed
from tenfold.lm.request import Event, Finished, Form, NewToken, Request
from tenfold.lm.sampling import SamplingRule
from tenfold.lm.structured import JsonForms
from tenfold.lm.token_stream import TokenStream
from tenfold.text.endpoint_errors import ContextLengthError
from tenfold.text.messages import SAMPLING, Message, Reply, Sampling, Usage
from tenfold.text.text_stream import TextStream
from tenfold.text.tokenizer import Tokenizer
from tenfold.text.tool_calls import calls_in, template_input, tool_names


@dataclass(frozen=True)
class Piece:
    """What one new token made certain of an answer's text: perhaps nothing yet."""

    text: str
    token: NewToken | None


@dataclass(frozen=True)
class Ending:
    """The end of an answer.

    Attributes:
        reason: "stop", "length" or "cancelled".
        prompt, completion: tokens read and made; `cached` of the prompt's were known from an earlier request.
    """

    reason: str
    prompt: int
    completion: int
    cached: int


Heard = Piece | Ending | BaseException


class LocalChatModel:
    """A chat model on this machine; a `ChatModel`, safe from any thread or event loop.

    A reply depends on the messages, the sampling and its seed, not on what else runs: its random numbers are keyed by
    them. In float64 replies are the same in every batch; in float32 rounding differs with the batch, which now and
    then turns a close choice.

    Args:
        model: the decoder.
        tokenizer: with a chat template for `complete`.
        name: what it is called.
        engine: options of `Engine`: max_batch, max_batch_tokens, weights, compiled, ….
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer, name: str = "local", **engine: Any) -> None:
        if tokenizer.vocab_size > model.cfg.vocab_size:
            raise UserError(
                f"tokenizer: it has {tokenizer.vocab_size} ids, the model {model.cfg.vocab_size}: they do not belong together"
            )
        self.name, self.tokenizer = name, tokenizer
        self.adapter: str | None = None
        self.engine = Engine(model, **engine)
        release_compute_threads()  # the engine computes in a thread of its own
        self._ends = frozenset(id for id in (tokenizer.end_id, tokenizer.eos_id) if id is not None)
        # Where a form is complete, the token that the model was trained to end a turn with.
        self._end = tokenizer.eos_id if tokenizer.end_id is None else tokenizer.end_id
        self._json = None if self._end is None else JsonForms(tokenizer, self._end)

    @classmethod
    def from_pretrained(cls, path: str | Path, name: str | None = None, **engine: Any) -> LocalChatModel:
        """Open a Hugging Face folder, a .gguf file, or a model by its name (`tenfold models list`)."""
        from tenfold.lm.gguf import read_gguf_tokenizer
        from tenfold.lm.pretrained import find

        place = find(path)
        model = Decoder.from_pretrained(place, dtype=torch.float32)
        tokenizer = read_gguf_tokenizer(place) if place.suffix == ".gguf" else Tokenizer.load(place)
        return cls(model, tokenizer, name or place.stem, **engine)

    def with_adapter(self, adapter: str) -> LocalChatModel:
        """The same engine and weights with one of the model's adapters, named NAME:ADAPTER; closing either closes both."""
        other = copy.copy(self)
        other.name, other.adapter = f"{self.name}:{adapter}", adapter
        return other

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n replies, independent draws.

        Raises:
            UserError: pictures, a schema that cannot be kept to, or a conversation longer than the model reads
                (ContextLengthError).
        """
        if n < 1:
            raise ValueError(f"n: got {n}, need at least 1")
        loop = asyncio.get_running_loop()
        ids, sampling = self.prompt(messages, sampling), replace(sampling, seed=self.seed(messages, sampling))
        answers = [_Answer(loop) for _ in range(n)]
        streams: list[TokenStream] = []
        try:
            for index, answer in enumerate(answers):
                streams.append(self.submit(ids, sampling, answer.hear, index=index))
            return [
                await answer.reply(charged=index == 0, tools=tool_names(sampling))
                for index, answer in enumerate(answers)
            ]
        finally:
            for stream in streams:
                stream.cancel()

    def prompt(self, messages: Sequence[Message], sampling: Sampling = SAMPLING) -> list[int]:
        """Token ids of a conversation, tools included, up to the opening of the assistant's turn.

        Raises:
            UserError: no messages, pictures, no chat template, or a template that refuses the messages.
        """
        if not messages:
            raise UserError("messages: got none, need at least one")
        if any(message.images for message in messages):
            raise UserError(f"messages: {self.name} reads text only, got a picture")
        tools = () if sampling.tool_choice == "none" else sampling.tools
        rows, variables = template_input(messages, tools, self.tokenizer.chat_template)
        return self.tokenizer.apply_chat_template(rows, add_generation_prompt=True, **variables)

    def seed(self, messages: Sequence[Message], sampling: Sampling) -> int:
        """The seed of a conversation's random numbers; without one in `sampling` a fresh one."""
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        return request_seed(seed, *messages)

    def submit(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        hear: Callable[[Heard], None],
        *,
        index: int = 0,
        top_logprobs: int | None = None,
    ) -> TokenStream:
        """Continue token ids; `hear` is called on the engine's thread with every piece of text and with the ending.

        Args:
            index: which of several answers to the same prompt; each has random numbers of its own.
            top_logprobs: as in `engine.Request`; `sampling.logprobs` asks for 0 of them.
        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            UserError: a response format that cannot be kept to.
            EngineBusyError: too many requests wait.
        """
        room = min(self.engine.model.cfg.max_len, self.engine.capacity) - len(ids)
        if room < 1:
            raise ContextLengthError(
                f"{self.name}: the prompt has {len(ids)} tokens, the model reads at most {len(ids) + room} with its answer"
            )
        text = TextStream(self.tokenizer, sampling.stop)
        made: list[NewToken] = []

        def until(token: int) -> bool:
            return text.stopped is not None

        def listen(event: Event) -> None:
            if isinstance(event, NewToken):
                made.append(event)
                hear(Piece("" if event.id in self._ends else text.push(event.id), event))
            elif isinstance(event, Finished):
                if rest := text.finish():
                    hear(Piece(rest, None))
                hear(Ending(event.reason, len(ids), len(made), event.cached_tokens))
            else:
                hear(event)

        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        request = Request(
            ids,
            max_new_tokens=min(sampling.max_tokens, room),
            rule=SamplingRule(sampling.temperature, sampling.top_k, sampling.top_p if sampling.top_p < 1 else None),
            stop=self._ends,
            min_new_tokens=min(sampling.min_tokens, room),
            seed=request_seed(seed, index),
            top_logprobs=0 if sampling.logprobs and top_logprobs is None else top_logprobs,
            allowed=self._form(sampling),
            until=until if sampling.stop else None,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            bias=self._bias(sampling),
            adapter=self.adapter,
        )
        return self.engine.submit(request, listen)

    def warm_up(self) -> None:
        """Have the engine make three tokens in the background, so that its loops are compiled when they are needed."""
        self.engine.submit(Request([0], 3), lambda event: None)

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()

    def __enter__(self) -> LocalChatModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bias(self, sampling: Sampling) -> dict[int, float]:
        bias = {int(token): value for token, value in (sampling.logit_bias or {}).items()}
        if bias and not 0 <= min(bias) <= max(bias) < self.engine.model.cfg.vocab_size:
            raise UserError(f"logit_bias: {self.name} has tokens 0..{self.engine.model.cfg.vocab_size - 1}")
        return bias

    def _form(self, sampling: Sampling) -> Form | None:
        """The tokens that may follow where the answer has a form: JSON, one of several strings, or a call of a tool."""
        if sampling.response_format is not None:
            if self._json is None:
                raise UserError(f"{self.name}: response_format needs an end-of-turn token, the tokenizer has none")
            return self._json.of_format(sampling.response_format)
        if sampling.choices is not None:
            end = self._end
            if end is None:
                raise UserError(f"{self.name}: choices need an end-of-turn token, the tokenizer has none")
            spelt = [[*self.tokenizer.encode(choice), end] for choice in sampling.choices]

            def choose(new: list[int]) -> Sequence[int]:
                return sorted({ids[len(new)] for ids in spelt if len(ids) > len(new) and ids[: len(new)] == new})

            return choose
        forced = sampling.tools and sampling.tool_choice not in (None, "auto", "none")
        if not forced:
            return None
        if self._json is None:
            raise UserError(f"{self.name}: tool_choice needs an end-of-turn token, the tokenizer has none")
        named = sampling.tool_choice if isinstance(sampling.tool_choice, dict) else {}
        return self._json.of_tools(sampling.tools, named.get("function", {}).get("name"))


@dataclass
class _Answer:
    """Gathers the pieces of one answer for a task of an event loop."""

    loop: asyncio.AbstractEventLoop
    parts: list[str] = field(default_factory=list)
    tokens: list[NewToken] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._done: asyncio.Future[Ending] = self.loop.create_future()

    def hear(self, heard: Heard) -> None:
        if isinstance(heard, Piece):
            self.parts.append(heard.text)
            if heard.token is not None:
                self.tokens.append(heard.token)
        else:
            self.loop.call_soon_threadsafe(self._settle, heard)

    def _settle(self, heard: Ending | BaseException) -> None:
        if self._done.done():
            return
        if isinstance(heard, Ending):
            self._done.set_result(heard)
        else:
            self._done.set_exception(heard)

    async def reply(self, *, charged: bool, tools: Collection[str]) -> Reply:
        ending = await self._done
        if ending.reason == "cancelled":
            raise UserError("engine: closed while the reply was being made")
        text = "".join(self.parts)
        text, calls = calls_in(text, tools)
        logs = tuple(token.logprob for token in self.tokens if token.logprob is not None)
        return Reply(
            text,
            "tool_calls" if calls else ending.reason,
            Usage(ending.prompt if charged else 0, ending.completion),
            tool_calls=calls,
            token_ids=tuple(token.id for token in self.tokens),
            logprobs=logs or None,
            seconds=time.perf_counter() - self.begun,
        )
