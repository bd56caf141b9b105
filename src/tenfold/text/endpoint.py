"""Language models behind an OpenAI-compatible endpoint: patience, accounting and checks around the official client."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tenfold.text.budget import Budget
from tenfold.text.concurrency import Gate, gather
from tenfold.text.endpoint_client import Connection
from tenfold.text.endpoint_errors import ChoiceError, EndpointError, Fault, exhausted, shown
from tenfold.text.endpoint_format import Api, chosen, parse_replies, request_body
from tenfold.text.messages import SAMPLING, Message, Reply, Sampling
from tenfold.text.retry import RETRY, Retry

PATHS: Mapping[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


class EndpointChatModel:
    """A model at any endpoint that speaks OpenAI's chat or completions API; safe to use from many event loops.

    At most `concurrency` requests are under way. A request that meets a busy or broken server is sent again as
    `retry` says and keeps its place meanwhile, so that a server in trouble is not asked by others instead.

    Args:
        model: its name at the endpoint.
        base_url: such as http://127.0.0.1:8000/v1; None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes OPENAI_API_KEY; servers that ask for none need none.
        concurrency: requests under way at a time.
        timeout: seconds of one try.
        retry: when to try again.
        api: "chat", or "completions" for models without a chat template: the texts of the messages in a row.
        extra: more fields of the request's body, such as `{"reasoning_effort": "low"}`; None removes a field. Newer
            OpenAI models want `{"max_tokens": None, "max_completion_tokens": 1000}`.
        stream: let the server send its reply in pieces, for gateways that cut silent connections.
        max_bytes: the longest body that is read.
    Raises:
        UserError: openai or aiohttp is not installed, no key for OpenAI's own endpoint, or an address that is none.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 60.0,
        retry: Retry = RETRY,
        *,
        api: Api = "chat",
        extra: Mapping[str, Any] | None = None,
        stream: bool = False,
        max_bytes: int = 16 << 20,
    ) -> None:
        if api not in PATHS:
            raise ValueError(f"api: got {api!r}, need 'chat' or 'completions'")
        self._connection = Connection(base_url, api_key, timeout, max_bytes)
        self._gate = Gate(concurrency)
        self._retry = retry
        self._api: Api = api
        self._extra = dict(extra or {})
        # What a cache must tell apart beside messages and sampling.
        self.identity = json.dumps([model, self._connection.base_url, api, self._extra], sort_keys=True)
        if stream:
            self._extra |= {"stream": True, "stream_options": {"include_usage": True}}
        self.name = model
        self.budget = Budget()  # without caps it only counts

    def __repr__(self) -> str:
        return f"EndpointChatModel({self.name!r}, {self._connection.base_url!r})"

    def with_budget(self, budget: Budget) -> EndpointChatModel:
        """The same model, connections and places, with each try charged to `budget`."""
        twin = copy.copy(self)
        twin.budget = budget
        return twin

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n replies to a conversation; a server that draws fewer at a time is asked again, with the next seeds.

        Raises:
            ContextLengthError: the conversation is too long for the model.
            RefusedError: the server refuses the request, key or model for good.
            ChoiceError: a reply is none of `sampling.choices`.
            EndpointError: no usable answer after all tries.
            BudgetExceededError: a try could pass a cap.
        """
        if n < 1:
            raise ValueError(f"n: got {n}, need at least 1")
        replies = await self._ask(messages, sampling, n)
        seeds = [None if sampling.seed is None else sampling.seed + i for i in range(len(replies), n)]
        rest = await gather(self._ask(messages, replace(sampling, seed=seed), 1) for seed in seeds)
        return [*replies, *(reply for more in rest for reply in more)]

    async def _ask(self, messages: Sequence[Message], sampling: Sampling, n: int) -> list[Reply]:
        """One request, sent until it is answered."""
        start = time.perf_counter()
        body = request_body(self.name, messages, sampling, n, self._api) | self._extra
        body = {name: value for name, value in body.items() if value is not None}
        tries = 0
        async with self._gate:
            while True:
                tries += 1
                try:
                    replies = await self._try(body, messages, sampling, n)
                    break
                except Fault as fault:
                    if tries == self._retry.tries:
                        raise exhausted(fault, tries, self._where) from None
                    pause = self._retry.delay(tries, fault.retry_after)
                await self._retry.sleep(pause)
        seconds = time.perf_counter() - start
        return [replace(self._restricted(reply, sampling), seconds=seconds) for reply in replies]

    async def _try(
        self, body: Mapping[str, Any], messages: Sequence[Message], sampling: Sampling, n: int
    ) -> list[Reply]:
        """Send one request and charge what it cost."""
        async with self.budget.reserve(self.name, messages, sampling, n) as charge:
            try:
                content, content_type = await self._connection.post(PATHS[self._api], body, self._where)
            except (Fault, EndpointError) as error:
                if error.status is not None and 400 <= error.status < 500:
                    charge.void()  # turned away unread
                raise
            replies = parse_replies(content, content_type, messages, n)
            charge.settle(replies)
            return replies

    def _restricted(self, reply: Reply, sampling: Sampling) -> Reply:
        """The reply with its text as one of the choices, where the sampling names some."""
        if sampling.choices is None:
            return reply
        choice = chosen(reply.text, sampling.choices)
        if choice is None:
            raise ChoiceError(
                f"{self._where}: «{shown(reply.text[:60])}» is none of the {len(sampling.choices)} choices; "
                "name them in the conversation or take a server that keeps to response_format",
                text=reply.text,
            )
        return replace(reply, text=choice)

    @property
    def _where(self) -> str:
        return f"endpoint: {shown(self.name)} at {shown(self._connection.base_url)}"
