"""The wire format of OpenAI's API: answers and their chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tenfold.lm.chat import Ending
from tenfold.lm.request import NewToken
from tenfold.lm.serve_format import ChatBody, CompletionBody
from tenfold.text.messages import ToolCall
from tenfold.text.tokenizer import Tokenizer
from tenfold.text.tool_calls import calls_in, tool_names

Answer = tuple[str, list[NewToken], Ending]


@dataclass(frozen=True)
class Wire:
    """Writes the answers to one request.

    Args:
        id: of the request, the same in all its chunks.
        model: the name it asked for.
        created: Unix seconds.
        tokenizer: spells the tokens of reported probabilities.
    """

    id: str
    model: str
    created: int
    tokenizer: Tokenizer

    def chat(self, body: ChatBody, answers: Sequence[Answer]) -> dict[str, Any]:
        """A whole answer of /v1/chat/completions."""
        choices = []
        for index, (text, tokens, ending) in enumerate(answers):
            text, calls = calls_in(text, tool_names(body.sampling))
            message: dict[str, Any] = {"role": "assistant", "content": None if calls and not text else text}
            if calls:
                message["tool_calls"] = [_call_object(call) for call in calls]
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": {"content": self._chat_logprobs(tokens)} if body.wants_logprobs else None,
                    "finish_reason": "tool_calls" if calls else ending.reason,
                }
            )
        usage = _usage([ending for *_, ending in answers])
        return {**self._head("chatcmpl", "chat.completion"), "choices": choices, "usage": usage}

    def chat_chunk(
        self,
        index: int | None,
        *,
        role: str | None = None,
        text: str | None = None,
        token: NewToken | None = None,
        calls: Sequence[ToolCall] = (),
        finish: str | None = None,
        usage: Sequence[Ending] | None = None,
    ) -> dict[str, Any]:
        """One event of a streamed chat; `index` None is the last one, which holds the usage alone."""
        head = self._head("chatcmpl", "chat.completion.chunk")
        if index is None:
            return {**head, "choices": [], "usage": _usage(usage or ())}
        delta: dict[str, Any] = {} if role is None else {"role": role, "content": ""}
        if text is not None:
            delta["content"] = text
        if calls:
            delta["tool_calls"] = [{"index": i, **_call_object(call)} for i, call in enumerate(calls)]
        logprobs = None if token is None else {"content": self._chat_logprobs([token])}
        return {**head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}

    def completion(self, body: CompletionBody, answers: Sequence[Answer]) -> dict[str, Any]:
        """A whole answer of /v1/completions."""
        choices = [
            {
                "index": index,
                "text": text,
                "logprobs": self._completion_logprobs(tokens) if body.wants_logprobs else None,
                "finish_reason": ending.reason,
            }
            for index, (text, tokens, ending) in enumerate(answers)
        ]
        usage = _usage([ending for *_, ending in answers])
        return {**self._head("cmpl", "text_completion"), "choices": choices, "usage": usage}

    def completion_chunk(
        self,
        index: int | None,
        *,
        text: str = "",
        token: NewToken | None = None,
        offset: int = 0,
        finish: str | None = None,
        usage: Sequence[Ending] | None = None,
    ) -> dict[str, Any]:
        """One event of a streamed completion, its token `offset` characters behind the answer's first; `index` None is
        the last one, which holds the usage alone."""
        head = self._head("cmpl", "text_completion")
        if index is None:
            return {**head, "choices": [], "usage": _usage(usage or ())}
        logprobs = None if token is None else self._completion_logprobs([token], offset)
        return {**head, "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}]}

    def _head(self, prefix: str, kind: str) -> dict[str, Any]:
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _chat_logprobs(self, tokens: Sequence[NewToken]) -> list[dict[str, Any]]:
        return [
            {**self._entry(token.id, token.logprob), "top_logprobs": [self._entry(*pair) for pair in token.top]}
            for token in tokens
        ]

    def _entry(self, id: int, logprob: float | None) -> dict[str, Any]:
        return {"token": self.spelt(id), "logprob": logprob, "bytes": list(self._bytes(id))}

    def spelt(self, id: int) -> str:
        """A token's own text; bytes that end within a character show as U+FFFD."""
        return self._bytes(id).decode("utf-8", "replace")

    def _bytes(self, id: int) -> bytes:
        return self.tokenizer.token_bytes(id) if id < self.tokenizer.vocab_size else b""

    def _completion_logprobs(self, tokens: Sequence[NewToken], offset: int = 0) -> dict[str, Any]:
        texts = [self.spelt(token.id) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self.spelt(id): log for id, log in token.top} for token in tokens],
            "text_offset": [offset + sum(map(len, texts[:i])) for i in range(len(texts))],
        }


def _usage(endings: Sequence[Ending]) -> dict[str, Any]:
    prompt = endings[0].prompt if endings else 0
    completion = sum(ending.completion for ending in endings)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": endings[0].cached if endings else 0},
    }


def _call_object(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
