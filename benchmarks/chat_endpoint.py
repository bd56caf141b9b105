"""The endpoint client: what a call costs above bare HTTP, how many calls run at once, and what the store of replies saves.

    python benchmarks/chat_endpoint.py --out chat_endpoint.json

The server is a stub on the loopback interface in a process of its own. litellm and dspy are measured where installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from rows import Row, parser, row, write

from tenfold.core.timing import Timing, interleaved, ratio
from tenfold.text.chat import CachedChatModel, EndpointChatModel, Message, Reply, Sampling, Usage, complete_all
from tenfold.text.reply_store import ReplyStore, request_key

PROMPT = [
    {"role": "system", "content": "Answer in one word. " * 10},
    {"role": "user", "content": "one two three " * 60},
]
MESSAGES = [Message(row["role"], row["content"]) for row in PROMPT]
GREEDY = Sampling(temperature=0.0)
LATENCY, CALLS, WIDTH = 0.05, 400, 16


async def serve(latency: float) -> None:
    """Answer every request with the same completion after `latency` seconds; GET tells how many there were."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello there"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 250, "completion_tokens": 2, "total_tokens": 252}
    whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    requests = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        # Head and body leave in one piece and at once: a delayed acknowledgement would add 40 ms.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                content = json.dumps({"requests": requests}).encode()
                if head.startswith(b"post"):
                    requests += 1
                    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
                    await reader.readexactly(int(length.split(b":")[1]))
                    await asyncio.sleep(latency)
                    content = json.dumps(whole).encode()
                fields = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\n{fields}".encode() + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def stub(latency: float) -> Iterator[str]:
    """The address of a stub server."""
    command = [sys.executable, __file__, "--serve", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


def http_package() -> Any:
    return import_module("httpx2" if find_spec("httpx2") else "httpx")


def overhead(repeats: int) -> list[Row]:
    """One call at a time on a server without latency, ours beside bare HTTP and other clients: processor time of the client."""
    import openai

    loop = asyncio.new_event_loop()
    http = http_package().AsyncClient()
    with stub(0.0) as url:
        official = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        ours = EndpointChatModel("m", url, "none")
        body = {"model": "m", "messages": PROMPT, "temperature": 0.0, "top_p": 1.0, "max_tokens": 256}
        path = url + "/chat/completions"
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "bare HTTP": lambda: http.post(path, json=body, headers={"Authorization": "Bearer none"}),
            "openai": lambda: official.chat.completions.create(**body),
            "ours": lambda: ours.complete(MESSAGES, GREEDY),
        }
        if find_spec("litellm"):
            os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up of prices on the network
            litellm = import_module("litellm")
            calls["litellm"] = lambda: litellm.acompletion(
                "openai/m", messages=PROMPT, temperature=0.0, max_tokens=256, api_base=url, api_key="none"
            )
        if find_spec("dspy"):
            lm = import_module("dspy").LM("openai/m", api_base=url, api_key="none", cache=False, temperature=0.0)
            calls["dspy.LM"] = lambda: lm.acall(messages=PROMPT)
        functions = {name: (lambda call=call: loop.run_until_complete(call())) for name, call in calls.items()}
        timings = interleaved(functions, repeats, warmup=10, clock=time.process_time)
        loop.run_until_complete(http.aclose())
        loop.run_until_complete(official.close())
        loop.run_until_complete(loop.shutdown_asyncgens())  # closes ours
        loop.close()
    bars = {"bare HTTP": None, "openai": None, "litellm": 1 / 0.35, "dspy.LM": 1 / 0.8}

    def note(peer: str) -> str:
        least = "" if bars[peer] is None else f"; bare HTTP would be at {ratio(timings, peer, 'bare HTTP'):.2f}"
        return beside(timings, peer, "ours") + least

    return [
        row(f"one call, {peer} / ours", ratio(timings, peer, "ours"), note(peer), bar)
        for peer, bar in bars.items()
        if peer in timings
    ]


def at_once() -> list[Row]:
    """Many calls to a server that takes its time, one after the other and side by side."""
    conversations = [[Message("user", f"question {i}")] for i in range(CALLS)]
    seconds = {}
    with stub(LATENCY) as url:
        for width in (1, WIDTH):
            model = EndpointChatModel("m", url, "none", concurrency=width)
            complete_all(model, conversations[:width])  # connections and imports are not what is measured
            passes = 1 if width == 1 else 3
            seconds[width] = median(timed(lambda m=model: complete_all(m, conversations)) for _ in range(passes))
    ideal = CALLS / WIDTH * LATENCY
    what = f"{CALLS} calls of {1e3 * LATENCY:.0f} ms"
    note = f"{seconds[1]:.1f} s against {seconds[WIDTH]:.2f} s"
    return [
        row(f"{what}, one at a time / {WIDTH} at a time", seconds[1] / seconds[WIDTH], note, 12),
        row(f"{what}, ideal / {WIDTH} at a time", ideal / seconds[WIDTH], f"ideal {ideal:.2f} s", 1 / 1.25),
    ]


def stored(repeats: int, scratch: Path) -> list[Row]:
    """What the store of replies saves, and what it costs."""
    rows = []
    conversations = [[Message("user", f"question {i}")] for i in range(CALLS)]
    with stub(LATENCY) as url:
        model = EndpointChatModel("m", url, "none")
        same = CachedChatModel(model, scratch / "same.db")
        taken = timed(lambda: complete_all(same, [MESSAGES] * 1000))
        rows.append(
            row("1000 identical requests, requests / calls upstream", 1000 / requests(url), f"{taken:.2f} s", 1000)
        )
        cold = timed(lambda: complete_all(CachedChatModel(model, scratch / "warm.db"), conversations))
        before = requests(url)
        warm = timed(lambda: complete_all(CachedChatModel(model, scratch / "warm.db"), conversations))
        share = 1 - (requests(url) - before) / CALLS
        rows.append(row("second run, share answered from the file", share, f"{CALLS} requests", 1))
        note = f"{cold:.2f} s against {1e3 * warm:.0f} ms"
        rows.append(row(f"{CALLS} calls of {1e3 * LATENCY:.0f} ms, first run / second", cold / warm, note, 50))
    loop = asyncio.new_event_loop()
    sizes = {}
    for entries in (1000, 100_000):
        path = scratch / f"{entries}.db"
        fill(path, entries)
        sizes[entries] = CachedChatModel(Named(), path)
    functions: dict[str, Callable[[], object]] = {}
    for entries, cached in sizes.items():
        functions[f"file {entries}"] = lambda cached=cached: from_file(loop, cached)
        functions[f"memory {entries}"] = lambda cached=cached: loop.run_until_complete(
            cached.complete(MESSAGES, GREEDY)
        )
    if find_spec("dspy"):
        with stub(0.0) as url:
            lm = import_module("dspy").LM("openai/m", api_base=url, api_key="none", temperature=0.0)
            functions["dspy.LM"] = lambda: lm(messages=PROMPT)
            timings = interleaved(functions, repeats, warmup=10)
        note = beside(timings, "dspy.LM", "memory 1000")
        rows.append(row("a hit in memory, dspy.LM / ours", ratio(timings, "dspy.LM", "memory 1000"), note, 1 / 2))
    else:
        timings = interleaved(functions, repeats, warmup=10)
    hit = timings["file 1000"].median
    note = f"{1e3 * hit:.3f} ms; in memory {1e3 * timings['memory 1000'].median:.3f} ms"
    rows.append(row("a hit in the file, 1 ms / ours", 1e-3 / hit, note, 1))
    note = beside(timings, "file 1000", "file 100000")
    value = ratio(timings, "file 1000", "file 100000")
    rows.append(row("a hit in the file, 1000 / 100 000 entries", value, note, 1 / 1.1))
    return rows


class Named:
    """A model that is never asked."""

    name = "m"

    async def complete(self, messages: object, sampling: object = None, n: int = 1) -> list[Reply]:
        raise AssertionError("the reply is not stored")


def fill(path: Path, entries: int) -> None:
    """A store of so many replies, one of them to MESSAGES."""
    store = ReplyStore(path)
    reply = Reply("hello there", "stop", Usage(250, 2))
    store.put(request_key("m", MESSAGES, GREEDY), [reply])
    # Rows in one transaction; as in life, keys are spread evenly.
    database = store._connection
    (text,) = database.execute("SELECT reply FROM replies").fetchone()
    with database:
        database.execute("BEGIN")
        keys = ((request_key("m", [Message("user", str(i))], GREEDY), 0, text) for i in range(entries - 1))
        database.executemany("INSERT INTO replies VALUES (?, ?, ?)", keys)


def from_file(loop: asyncio.AbstractEventLoop, cached: CachedChatModel) -> None:
    cached._store._memory.clear()
    loop.run_until_complete(cached.complete(MESSAGES, GREEDY))


def requests(url: str) -> int:
    return int(http_package().get(url).json()["requests"])


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def beside(timings: dict[str, Timing], one: str, two: str) -> str:
    return f"{1e3 * timings[one].median:.2f} ms against {1e3 * timings[two].median:.2f} ms"


def main() -> None:
    options = parser("the endpoint client beside bare HTTP and other clients", repeats=200)
    options.add_argument("--serve", type=float, default=None, help="be the stub server, with this latency in seconds")
    arguments = options.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    elif arguments.threads == 1:
        with tempfile.TemporaryDirectory() as scratch:
            rows = [*overhead(arguments.repeats), *at_once(), *stored(arguments.repeats, Path(scratch))]
        what = "A stub server in a process of its own on the loopback interface; prompts of about 1 kB. One call: processor time of the client, the rest wall time."
        write(arguments.out, "Endpoint client", what, 1, rows)
    elif arguments.out is not None:  # nothing here depends on the threads: one section is enough
        arguments.out.write_text(json.dumps({"sections": []}) + "\n")


if __name__ == "__main__":
    main()
