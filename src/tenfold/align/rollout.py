"""Responses of a policy: K draws to each of many prompts, with the tokens that were drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenfold.align.chat_samples import prompt_ids
from tenfold.align.draw_file import DrawFile
from tenfold.align.samples import Sample
from tenfold.core.errors import UserError
from tenfold.lm.decoder import Decoder
from tenfold.lm.engine import Engine, request_seed
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.text.messages import SAMPLING, ChatModel, Message, Sampling
from tenfold.text.tokenizer import Tokenizer

_OF_TOKENS = ("temperature", "top_p", "top_k", "max_tokens", "min_tokens", "seed")  # all that a bare decoder takes


@dataclass(frozen=True)
class Response:
    """One response.

    Args:
        text: what it says.
        sample: prompt and response in tokens, of which the response is learned, its end token included.
        finished: whether it ended by itself; False where it was cut, and has no end token.
    """

    text: str
    sample: Sample
    finished: bool


def respond(
    model: Decoder | ChatModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[Message]],
    k: int,
    sampling: Sampling = SAMPLING,
    *,
    max_batch: int = 64,
    max_batch_tokens: int = 32768,
    keep: Path | None = None,
) -> list[list[Response]]:
    """k responses to each prompt, independent draws.

    A decoder is run by the batched engine in the calling thread: the draws depend on (seed, prompt's index, draw) alone, and
    the same call gives the same responses. It samples from the weights as they are now, and is in its former mode
    afterwards.

    Args:
        model: a decoder, or any chat model.
        tokenizer: of the policy that will learn; with a chat template.
        prompts: the turns to answer.
        k: responses a prompt.
        sampling: how they are drawn. A decoder takes temperature, top_p, top_k, max_tokens, min_tokens and seed.
        max_batch, max_batch_tokens: of the decoder's engine.
        keep: file that takes every finished draw of a decoder, and gives it back to the same call after a kill (a chat
            model keeps its own: `CachedChatModel`).
    Returns:
        k responses to each prompt. Tokens are those that were drawn, where the model tells; else those of the text.
    Raises:
        ValueError: k below 1, or settings that a decoder does not take.
        UserError: a prompt that leaves no room for a response, or a decoder with fewer tokens than the tokenizer.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, need at least 1")
    asked = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    if isinstance(model, Decoder):
        drawn: MutableMapping[tuple[int, int], list[int]] = {} if keep is None else DrawFile(keep, asked, sampling)
        return _by_engine(model, tokenizer, asked, k, sampling, drawn, max_batch, max_batch_tokens)
    return _by_chat(model, tokenizer, prompts, asked, k, sampling)


def _by_engine(
    model: Decoder,
    tokenizer: Tokenizer,
    asked: Sequence[list[int]],
    k: int,
    sampling: Sampling,
    drawn: MutableMapping[tuple[int, int], list[int]],
    max_batch: int,
    max_batch_tokens: int,
) -> list[list[Response]]:
    given, plain = vars(sampling), vars(Sampling())
    if extra := [name for name in given if name not in _OF_TOKENS and given[name] != plain[name]]:
        raise ValueError(f"sampling: got {', '.join(extra)}, need a chat model for them (LocalChatModel)")
    if tokenizer.vocab_size > model.cfg.vocab_size:
        raise UserError(
            f"tokenizer: it has {tokenizer.vocab_size} ids, the model {model.cfg.vocab_size}: they do not belong together"
        )
    room = model.cfg.max_len - max((len(ids) for ids in asked), default=0)
    if room < 1:
        raise UserError(f"prompt: got {model.cfg.max_len - room} tokens, the model reads {model.cfg.max_len} in all")
    ends = frozenset(id for id in (tokenizer.end_id, tokenizer.eos_id) if id is not None)
    seed = 0 if sampling.seed is None else sampling.seed
    rule = SamplingRule(sampling.temperature, sampling.top_k, sampling.top_p if sampling.top_p < 1 else None)
    training = model.training
    # Made anew each time: the engine packs the weights it starts with. Compiled loops would not pay for one use.
    engine = Engine(
        model,
        max_batch=max_batch,
        max_batch_tokens=max(max_batch_tokens, model.cfg.max_len),
        max_waiting=max(1, k * len(asked)),
        compiled="off",
    )
    try:
        with engine:
            running = {
                (index, draw): engine.submit(
                    Request(
                        ids,
                        min(sampling.max_tokens, model.cfg.max_len - len(ids)),
                        rule,
                        ends,
                        min(sampling.min_tokens, room),
                        request_seed(seed, index, draw),
                    )
                )
                for index, ids in enumerate(asked)
                for draw in range(k)
                if (index, draw) not in drawn
            }
            going = True
            while running:
                going = going and engine.step()
                for place, stream in list(running.items()):
                    if stream.finish or not going:  # where nothing goes on, what is left failed: iterating says why
                        drawn[place] = [token.id for token in stream]
                        del running[place]
    finally:
        model.train(training)
    made = []
    for index, ids in enumerate(asked):
        group = [drawn[index, draw] for draw in range(k)]
        made.append([_response(tokenizer, ids, new, bool(new) and new[-1] in ends, ends) for new in group])
    return made


def _by_chat(
    model: ChatModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[Message]],
    asked: Sequence[list[int]],
    k: int,
    sampling: Sampling,
) -> list[list[Response]]:
    from tenfold.text.chat import complete_all  # brings an event loop along

    ends = frozenset(id for id in (tokenizer.end_id, tokenizer.eos_id) if id is not None)
    replies = complete_all(model, prompts, sampling, n=k)
    made = []
    for ids, answers in zip(asked, replies, strict=True):
        group = []
        for reply in answers:
            finished = reply.finish_reason != "length"
            if reply.token_ids:
                response = _response(tokenizer, ids, list(reply.token_ids), finished, ends)
            else:
                new = tokenizer.encode(reply.text)
                if finished and tokenizer.end_id is not None:
                    new.append(tokenizer.end_id)
                response = _response(tokenizer, ids, new, finished, ends)
            group.append(dataclasses.replace(response, text=reply.text))
        made.append(group)
    return made


def _response(
    tokenizer: Tokenizer, prompt: list[int], new: list[int], finished: bool, ends: frozenset[int]
) -> Response:
    return Response(tokenizer.decode([id for id in new if id not in ends]), Sample.of(prompt, new), finished)
