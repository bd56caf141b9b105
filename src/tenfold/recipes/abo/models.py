"""Models by their names: the simulator, a model served here for the time of a run, or an endpoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError
from tenfold.lm.pretrained import find
from tenfold.prompts.simulator import SimOptimizer, SimTarget
from tenfold.prompts.whole_replies import WholeReplies
from tenfold.prompts.word_model import WORD_MODEL, WordModel, open_word_model
from tenfold.prompts.word_writer import WordWriter
from tenfold.recipes.abo.config import LOCAL, SCRIPT, SIM, writer_of
from tenfold.text.endpoint import EndpointChatModel
from tenfold.text.messages import ChatModel

SERVE = "serve:"


@contextmanager
def opened(
    target: str,
    optimizer: str,
    *,
    seed: int = 0,
    beta: float = 0.7,
    base_url: str | None = None,
    api_key: str | None = None,
    concurrency: int = 16,
    timeout: float = 60.0,
    stream: bool = False,
    local: WordModel = WORD_MODEL,
    whole_replies: bool = False,
) -> Iterator[tuple[ChatModel, ChatModel]]:
    """Target and optimizer; models that are served here are stopped at the end.

    Args:
        target, optimizer: see `config.Models`.
        seed, beta: of the simulator; the seed also of the scripted writer.
        base_url, api_key: of endpoints that are named by their model alone; none: the environment's.
        concurrency, timeout: of endpoints.
        stream: let endpoints send replies in pieces.
        local: how the local model is made.
        whole_replies: see `config.Models`.
    Raises:
        UserError: no such model, an endpoint without key, a server that does not start.
    """
    with ExitStack() as stack:
        known: dict[str, ChatModel] = {}

        def model(name: str) -> ChatModel:
            if name not in known:
                if name == LOCAL:
                    known[name] = stack.enter_context(open_word_model(local))
                elif name == SCRIPT:
                    known[name] = WordWriter(seed)
                elif name.startswith(SERVE):
                    url, served = stack.enter_context(serving(name.removeprefix(SERVE)))
                    known[name] = here = EndpointChatModel(served, url, "none", concurrency, timeout)
                    here.identity = name  # its port is another in each process, and a resumed run must find its replies
                elif name.startswith(("http://", "https://")):
                    url, _, served = name.partition("#")
                    if not served:
                        raise UserError(f"model: got {name}, need URL#MODEL, such as http://localhost:8000/v1#NAME")
                    known[name] = EndpointChatModel(served, url, api_key, concurrency, timeout, stream=stream)
                else:
                    _check_name(name, base_url)
                    known[name] = EndpointChatModel(name, base_url, api_key, concurrency, timeout, stream=stream)
            return known[name]

        writer = writer_of(target, optimizer)
        first = SimTarget(seed) if target == SIM else model(target)
        second = SimOptimizer(beta, seed) if writer == SIM else model(writer)
        yield first, WholeReplies(second) if whole_replies else second


def _check_name(name: str, base_url: str | None) -> None:
    """Refuse a name that is nearly one of ours, where no endpoint is set that could know it."""
    if (meant := did_you_mean(name, (SIM, LOCAL, SCRIPT))) and not (base_url or os.environ.get("OPENAI_BASE_URL")):
        raise UserError(f"model: got {name}{meant}; an endpoint's model needs OPENAI_BASE_URL or --base-url")


@contextmanager
def serving(name: str) -> Iterator[tuple[str, str]]:
    """(address, model) of `tenfold afm serve NAME` in a process of its own.

    Raises:
        UserError: no such model, or the server ended before it served.
    """
    find(name)
    command = [sys.executable, "-m", "tenfold", "afm", "serve", name, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            said = re.search(r"serving (.+?)(?:,.*)? at (http://\S+)", line)
            if said is None:
                raise UserError(f"serve:{name}: the server did not start; try tenfold afm serve {name}")
            yield said[2], said[1]
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
