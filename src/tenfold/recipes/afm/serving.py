"""Talk to a model: in the terminal, or as an OpenAI-compatible server."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Annotated, Any, Literal

import torch
import tyro

from tenfold.align.safety_categories import read_categories
from tenfold.align.safety_policy import PhrasePolicy
from tenfold.core.errors import UserError, printable
from tenfold.lm.chat import Ending, Heard, LocalChatModel, Piece
from tenfold.lm.pretrained import find
from tenfold.recipes.afm.opening import open_model, place_of, with_adapters
from tenfold.text.messages import Message, Sampling

DEFAULT_MODEL = "smollm2-135m-instruct"


def chat(
    model: Annotated[str, tyro.conf.Positional] = DEFAULT_MODEL,
    *,
    system: str = "",
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_tokens: int = 512,
    seed: int | None = None,
    adapter: str | None = None,
    weights: Literal["float", "int8"] = "float",
    materialize: bool = False,
    threads: int | None = None,
) -> None:
    """Chat with a model in the terminal; input that is piped in is one question.

    Args:
        model: a run's models/NAME, the run of `sft` and its like, any Llama, Qwen3 or Mixtral folder, a .gguf file, or a name
            that `tenfold models list` shows.
        system: the system message.
        temperature: 0 takes the most likely word.
        top_p: mass of the nucleus that words are drawn from, in (0, 1].
        max_tokens: of an answer.
        seed: of the random draws; none: different every time.
        adapter: folder of an adapter that works on the model.
        weights: "int8" reads eight bits a weight: twice the speed or more, a little off.
        materialize: of a palettized model: keep its matrices in memory, whole, instead of looking them up at every product:
            more memory, less time a token.
        threads: processor threads; none: torch's choice.
    """
    if seed is not None and not -(2**63) <= seed < 2**63:
        raise UserError(f"--seed: got {seed}, need a number of 64 bits")
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    _use_threads(threads)
    place_of(model)  # a model that is missing is told before the question is read
    piped = not sys.stdin.isatty()
    question = sys.stdin.read().strip() if piped else ""
    if piped and not question:
        raise UserError("chat: got no question on the standard input")
    conversation = [Message("system", system)] if system else []
    given = [] if adapter is None else [f"chat={adapter}"]
    with opened(model, given, materialize=materialize, max_batch=1, weights=weights) as (local, *adapted):
        local = adapted[0] if adapted else local
        if piped:
            _answer(local, [*conversation, Message("user", question)], sampling)
            return
        local.warm_up()
        print(f"{local.name}: write and press Enter; /new begins anew, /quit or Ctrl-D ends, Ctrl-C stops an answer")
        begun = list(conversation)
        while True:
            try:
                line = input("\n> ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if line in ("/quit", "/exit"):
                return
            if line == "/new":
                conversation = list(begun)
                continue
            if not line:
                continue
            asked = [*conversation, Message("user", line)]
            try:
                conversation = [*asked, Message("assistant", _answer(local, asked, sampling))]
            except UserError as error:  # too long, say: the conversation goes on without this turn
                print(f"error: {error}", file=sys.stderr)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        if not 1 <= threads <= 1024:
            raise UserError(f"--threads: got {threads}, need 1..1024")
        torch.set_num_threads(threads)


def _answer(model: LocalChatModel, conversation: list[Message], sampling: Sampling) -> str:
    """Print an answer as it is made; Ctrl-C ends it early."""
    said = ""
    pieces = answer(model, conversation, sampling)
    with closing(pieces), suppress(KeyboardInterrupt):
        for piece in pieces:
            said += piece
            print(printable(piece, keep="\n\t", unseen=None), end="", flush=True)
    print()
    return said


def answer(model: LocalChatModel, conversation: list[Message], sampling: Sampling) -> Generator[str, None, None]:
    """An answer, piece by piece as it is made; closing the generator ends it early.

    Raises:
        UserError: a conversation longer than the model reads.
    """
    heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
    seeded = Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=model.seed(conversation, sampling),
    )
    stream = model.submit(model.prompt(conversation, seeded), seeded, heard.put)
    try:
        while True:
            event = heard.get()
            if isinstance(event, Piece):
                yield event.text
            elif isinstance(event, Ending):
                break
            else:
                raise event
    finally:
        stream.cancel()  # of an answer that has ended it does nothing


def serve(
    model: Annotated[str, tyro.conf.Positional] = DEFAULT_MODEL,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    max_batch: int = 64,
    max_batch_tokens: int = 32768,
    adapters: tuple[str, ...] = (),
    policy: str | None = None,
    weights: Literal["float", "int8"] = "float",
    materialize: bool = False,
    threads: int | None = None,
) -> None:
    """Serve a model to OpenAI's clients: /v1/chat/completions, /v1/completions, /v1/models.

    Args:
        model: as for `chat`.
        name: what clients put in the `model` field; none: the folder's name.
        host: beyond 127.0.0.1 an API key is needed.
        port: TCP port; 0 takes a free one.
        api_key: what clients must send; none: the environment's TENFOLD_API_KEY, if set.
        max_batch: requests answered at a time.
        max_batch_tokens: tokens of all their prompts and answers in memory.
        adapters: folders, or NAME=FOLDER, of adapters; a request asks for one by the model's name MODEL:NAME.
        policy: JSON file of safety categories, or "default" for the one that comes with tenfold: requests and answers with
            its phrases get its refusal; none: all pass.
        weights: "int8" reads eight bits a weight where one request runs alone.
        materialize: as for `chat`.
        threads: processor threads; none: torch's choice.
    """
    from tenfold.lm.serve import serve as serve_model

    _use_threads(threads)
    if max_batch < 1 or max_batch_tokens < 64:
        raise UserError(f"--max-batch, --max-batch-tokens: got {max_batch}, {max_batch_tokens}, need at least 1, 64")
    rules = None if policy is None else PhrasePolicy(read_categories(None if policy == "default" else policy))
    engine: dict[str, Any] = {"max_batch": max_batch, "max_batch_tokens": max_batch_tokens, "weights": weights}
    with opened(model, adapters, name, materialize=materialize, **engine) as models:
        key = api_key or os.environ.get("TENFOLD_API_KEY")
        serve_model({each.name: each for each in models}, host=host, port=port, api_key=key, policy=rules)


@contextmanager
def opened(
    model: str, adapters: Sequence[str] = (), name: str | None = None, materialize: bool = False, **engine: Any
) -> Iterator[list[LocalChatModel]]:
    """A chat model, by default of its folder's name, and the same with each of the adapters, all on one engine."""
    decoder, tokenizer = open_model(model, materialize)
    names = with_adapters(decoder, adapters)
    with LocalChatModel(decoder, tokenizer, name or find(model).stem, **engine) as local:
        yield [local, *map(local.with_adapter, names)]
