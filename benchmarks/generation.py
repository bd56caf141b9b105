"""Generation on SmolLM2's shape: the engine beside transformers' generate, the memory bus and itself without a cache; the server.

    python benchmarks/generation.py --threads 2 --out generation.json

Weights are random (their values do not change the time); prompts of 8 tokens, greedy, no token ends an answer.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rows import Row, parser, row, write

from tenfold.core.timing import interleaved, ratio
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine
from tenfold.lm.request import Request
from tenfold.lm.sampling import SamplingRule
from tenfold.lm.stepper import PackedLinear
from tenfold.text.tokenizer import train_tokenizer

SMOLLM2 = DecoderConfig(49152, 576, 30, 9, 3, 64, 1536, rope_base=1e5, qk_norm=False, max_len=2048)
TINY = DecoderConfig(2048, 128, 4, 4, 2, 32, 352, qk_norm=False, max_len=512)
PROMPT, GREEDY = 8, SamplingRule(temperature=0)


def prompts(count: int) -> list[list[int]]:
    return torch.randint(10, 2000, (count, PROMPT), generator=torch.Generator().manual_seed(count)).tolist()


def twin(model: Decoder) -> torch.nn.Module:
    """The same weights in transformers."""
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs: torch.nn.Module = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    theirs.generation_config.eos_token_id = None  # type: ignore[union-attr]
    theirs.generation_config.pad_token_id = 0  # type: ignore[union-attr]
    return theirs


def ours(engine: Engine, ids: list[list[int]], new: int) -> Callable[[], object]:
    def run() -> None:
        for stream in [engine.submit(Request(prompt, new, GREEDY)) for prompt in ids]:
            for _ in stream:
                pass

    return run


def hugging_face(model: torch.nn.Module, ids: list[list[int]], new: int) -> Callable[[], object]:
    tensor = torch.tensor(ids)
    mask = torch.ones_like(tensor)
    return lambda: model.generate(tensor, attention_mask=mask, max_new_tokens=new, do_sample=False)  # type: ignore[operator]


def bus() -> float:
    """Bytes a second that a sum over 512 MB reads: the most that a pass over weights can reach."""
    numbers = torch.ones(1 << 27)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - start)
    return 4 * len(numbers) / statistics.median(seconds)


def products(batch: int, new: int) -> float:
    """Seconds of the matrix products of prompts and answers, if all ran at the speed of the fastest one."""
    with torch.device("meta"):
        model = Decoder(SMOLLM2, torch.Generator())
    layers, head = model.num_params(), SMOLLM2.vocab_size * SMOLLM2.dim
    flops = 2 * batch * ((PROMPT + new - 1) * layers + new * head)
    linear = torch.nn.Linear(SMOLLM2.dim, 2 * SMOLLM2.ffn_dim, bias=False)
    fast, rows = PackedLinear(linear), torch.randn(batch, SMOLLM2.dim)
    seconds = []
    with torch.inference_mode():
        for _ in range(50):
            start = time.perf_counter()
            fast(rows)
            seconds.append(time.perf_counter() - start)
    return flops / (2 * batch * linear.weight.numel() / statistics.median(seconds))


def against_transformers(repeats: int) -> list[Row]:
    model = Decoder(SMOLLM2, torch.Generator().manual_seed(0))
    theirs = twin(model)
    rows = []
    for batch, new, bar in ((1, 32, 1.8), (16, 16, None), (64, 12, 2.0)):
        ids = prompts(batch)
        with Engine(model, max_batch=batch) as engine:
            timings = interleaved(
                {"ours": ours(engine, ids, new), "transformers": hugging_face(theirs, ids, new)}, repeats, warmup=1
            )
        speed = {name: batch * new / timing.median for name, timing in timings.items()}
        note = f"{speed['ours']:.0f} against {speed['transformers']:.0f} tokens/s"
        if batch == 64:
            most = timings["transformers"].median / products(batch, new)
            note += f"; the matrix products alone, all at the fastest kernel's speed in this run, would give {most:.2f}"
        rows.append(row(f"batch {batch}, fp32 / transformers", ratio(timings, "transformers", "ours"), note, bar))
        if batch == 1:
            rows += single_row(model, theirs, ids, new, repeats)
    return rows


def single_row(model: Decoder, theirs: torch.nn.Module, ids: list[list[int]], new: int, repeats: int) -> list[Row]:
    """One sequence: the share of the memory bus, and eight bits a weight."""
    weights = 4 * model.num_params(embedding=True)
    shares = []
    with Engine(model, max_batch=1) as engine:
        ours(engine, ids, new)()
        for _ in range(repeats):
            limit = bus() / weights
            stream = iter(engine.submit(Request(ids[0], new + 1, GREEDY)))
            next(stream)  # the prompt is read
            start = time.perf_counter()
            for _ in stream:
                pass
            shares.append(new / (time.perf_counter() - start) / limit)
    share = statistics.median(shares)
    note = f"bus read {limit * weights / 1e9:.1f} GB/s in this run, {limit:.0f} times the weights a second"
    rows = [row("batch 1, fp32: share of the memory bus", share, note, 0.75)]
    with Engine(model, max_batch=1, weights="int8") as engine:
        timings = interleaved(
            {"ours": ours(engine, ids, new), "transformers": hugging_face(theirs, ids, new)}, repeats, warmup=1
        )
    note = f"{new / timings['ours'].median:.0f} against {new / timings['transformers'].median:.0f} tokens/s"
    return [*rows, row("batch 1, int8 / transformers fp32", ratio(timings, "transformers", "ours"), note, 4.0)]


def tiny_rows(repeats: int) -> list[Row]:
    """The preset `tiny`'s shape, where calls and not weights are the cost; its loops compiled, before the clock starts."""
    model = Decoder(TINY, torch.Generator().manual_seed(0)).eval()
    theirs = twin(model)
    ids, new = prompts(1), 256

    @torch.inference_mode()
    def uncached() -> None:
        row = list(ids[0])
        for _ in range(new):
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))

    with Engine(model, compiled="on") as engine:
        runs = {
            "ours": ours(engine, ids, new),
            "uncached": uncached,
            "transformers": hugging_face(theirs, ids, new),
        }
        timings = interleaved(runs, repeats, warmup=1)
    speed = {name: f"{new / timing.median:.0f}" for name, timing in timings.items()}
    note = f"{speed['ours']} against {speed['transformers']} tokens/s"
    rows = [row("tiny, batch 1 / transformers", ratio(timings, "transformers", "ours"), note, 1.5)]
    note = f"{speed['ours']} against {speed['uncached']} tokens/s over 256 tokens"
    return [*rows, row("tiny, cached / uncached", ratio(timings, "uncached", "ours"), note, 5.0)]


def serve_here() -> None:
    """Serve the shape until the process is ended; prints the port first. A process of its own, as a server is."""
    from tenfold.lm.serve import serve

    tokenizer = train_tokenizer(["a b c d e f g"] * 3, 300)
    serve(Decoder(SMOLLM2, torch.Generator().manual_seed(0)), tokenizer, port=0, name="m")


@contextmanager
def served(threads: int) -> Iterator[str]:
    command = [sys.executable, __file__, "--serve", "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "http://" in line)
        yield line[line.index("http://") :].split()[0]
        process.terminate()


def server_rows(repeats: int, threads: int) -> list[Row]:
    """Tokens a second over HTTP, 16 streams beside one, each through the official client."""
    import openai

    new = 24

    def streams(url: str, count: int) -> Callable[[], object]:
        async def everyone() -> None:
            async with openai.AsyncOpenAI(base_url=url, api_key="-", max_retries=0, timeout=300) as client:

                async def one(index: int) -> None:
                    stream = await client.completions.create(
                        model="m",
                        prompt=prompts(16)[index],
                        max_tokens=new,
                        stream=True,
                        extra_body={"min_tokens": new},
                    )
                    async for _ in stream:
                        pass

                await asyncio.gather(*(one(index) for index in range(count)))

        return lambda: asyncio.run(everyone())

    with served(threads) as url:
        timings = interleaved({"one": streams(url, 1), "sixteen": streams(url, 16)}, repeats, warmup=1)
    gain = 16 * ratio(timings, "one", "sixteen")
    note = f"{16 * new / timings['sixteen'].median:.0f} against {new / timings['one'].median:.0f} tokens/s, streamed over HTTP"
    return [row("server, 16 streams / 1: tokens a second", gain, note, 3.0)]


def main() -> None:
    options = parser("generation beside transformers and the memory bus", repeats=5)
    options.add_argument("--serve", action="store_true", help="serve the shape, for the measurement itself")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.serve:
        return serve_here()
    rows = [
        *against_transformers(arguments.repeats),
        *tiny_rows(arguments.repeats),
        *server_rows(arguments.repeats, arguments.threads),
    ]
    what = (
        "SmolLM2's shape (135 million parameters), random weights, prompts of 8 tokens, greedy; tokens a second over "
        "prompt and answer. `tiny` is 4 layers of width 128."
    )
    write(arguments.out, "Generation and serving", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
