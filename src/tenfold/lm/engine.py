"""Continuous batching: requests join and leave a running batch, each token of theirs is handed out as it is made."""

# Shape legend: B running sequences, V vocabulary

from __future__ import annotations

import contextlib
import hashlib
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold.core import memory
from tenfold.lm.packed_cache import PackedCache
from tenfold.lm.request import Event, Finish, Request, masked_logits, reported
from tenfold.lm.sampling import draw_rows
from tenfold.lm.slots import Slots
from tenfold.lm.stepper import Compiled, Stepper, Weights
from tenfold.lm.token_stream import EngineBusyError, EngineClosedError, TokenStream
from tenfold.nn.lora_layer import active_of, working
from tenfold.nn.moe import dropless, moe_layers

if TYPE_CHECKING:
    from tenfold.lm.decoder import Decoder
    from tenfold.lm.kv_cache import KVCache

FILLED = 1.2  # of what prompts that are read together come to, so much with what fills them up
REUSE = 16  # tokens that a kept prefix must save before it is worth moving


@dataclass(eq=False)
class _Row:
    """A sequence in a slot."""

    stream: TokenStream
    generator: torch.Generator
    adapter: str | None
    new: list[int] = field(default_factory=list)
    done: int = 0  # tokens of prompt and answer whose keys and values are stored
    reused: int = 0
    entered: bool = False  # its adapter is kept for it

    @property
    def request(self) -> Request:
        return self.stream.request

    @property
    def unread(self) -> int:
        """Tokens of its prompt whose keys and values are not stored."""
        return max(0, len(self.request.ids) - self.done)

    @cached_property  # read for every row whenever another one asks for a slot
    def need(self) -> int:
        """Tokens that its slot must hold: the last new token is never fed back."""
        return len(self.request.ids) + self.request.max_new_tokens - 1


class Engine:
    """Runs a decoder for many requests at once.

    The batch is remade at every step: a request that ends leaves its place, a waiting one takes it. Prompts are read
    in pieces between the steps of the running requests, so that a long one does not hold them up. A request's tokens
    depend on its own prompt and seed: exactly in float64; in float32 up to rounding, which differs with the batch.

    Iterating over a stream runs the engine in the calling thread; a request with a listener starts a thread that runs it
    for all from then on. Use it as a context manager, or `close`.

    Args:
        model: the decoder; it is put in eval mode.
        max_batch: requests that run at a time.
        max_batch_tokens: tokens of keys and values in memory, over all requests; a request waits while it does not fit.
        max_waiting: requests that may wait; more are refused.
        prefill_chunk: tokens of prompts read between two steps of running requests; eight times as many while none runs.
        weights, compiled: of single rows, as in `lm.stepper.Stepper`.
        block: how keys and values lie, as in `lm.slots.Slots`; None makes them a block except on a CPU.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        max_batch: int = 64,
        max_batch_tokens: int = 32768,
        max_waiting: int = 1024,
        prefill_chunk: int = 64,
        weights: Weights = "float",
        compiled: Compiled = "auto",
        block: bool | None = None,
    ) -> None:
        for name, value in (("max_waiting", max_waiting), ("prefill_chunk", prefill_chunk)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, need at least 1")
        self.model = model.eval()
        first = model.embed_tokens.weight
        block = first.device.type != "cpu" if block is None else block
        self._slots = Slots(model.cfg, max_batch, max_batch_tokens, first.dtype, first.device, block=block)
        self._step = Stepper(model, weights=weights, compiled=compiled)
        self._experts = any(True for _ in moe_layers(model))
        self._adapters = active_of(model)
        self._changes = 0 if self._adapters is None else self._adapters.changes
        self._chunk, self._max_waiting = prefill_chunk, max_waiting
        self._waiting: deque[TokenStream] = deque()
        self._running: list[_Row] = []  # row i is in slot i
        self._reading: list[
            _Row
        ] = []  # rows whose prompts are not read to their end, in the slots behind the running ones
        self._batch: KVCache | PackedCache | None = None  # cache over the running rows, kept while they stay the same
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._turns = threading.Lock()  # held by the thread that takes a turn
        self._thread: threading.Thread | None = None
        self._closed = False

    # Called from any thread.

    def submit(self, request: Request, listener: Callable[[Event], None] | None = None) -> TokenStream:
        """Queue a request.

        Args:
            request: what to continue.
            listener: called on the engine's thread with every `NewToken`, then once with `Finished` or an exception;
                None: iterate over the returned stream instead, which is what makes the tokens.
        Raises:
            ValueError: a prompt that with its answer exceeds the model's max_len or the engine's memory, ids outside
                the vocabulary.
            EngineBusyError: too many requests wait; EngineClosedError: closed.
        """
        self.check(request)
        stream = TokenStream(request, listener, self.step)
        with self._work:
            if self._closed:
                raise EngineClosedError("engine: closed, it takes no more requests")
            if len(self._waiting) >= self._max_waiting:
                for gone in [each for each in self._waiting if each.cancelled]:
                    self._waiting.remove(gone)
                    gone.end("cancelled")
            if len(self._waiting) >= self._max_waiting:
                raise EngineBusyError(f"engine: {self._max_waiting} requests wait already; try again later")
            self._waiting.append(stream)
            if self._thread is None and listener is not None:
                self._thread = threading.Thread(target=self._loop, name="tenfold-engine", daemon=True)
                self._thread.start()
            self._work.notify()
        return stream

    def step(self) -> bool:
        """Take one turn in the calling thread, for all requests; another thread's turn is waited for.

        Returns:
            False where the engine's own thread does it, or nothing is left to do.
        """
        with self._turns:
            with self._lock:
                idle = not (self._waiting or self._running or self._reading)
                if self._thread is not None or self._closed or idle:
                    return False
            self._guarded_turn()
            return True

    def check(self, request: Request) -> None:
        """Refuse what can never run. Raises: as `submit`."""
        cfg = self.model.cfg
        total = len(request.ids) + request.max_new_tokens
        if total > cfg.max_len:
            raise ValueError(
                f"prompt + max_new_tokens: got {len(request.ids)} + {request.max_new_tokens} = {total} tokens, "
                f"the model takes at most max_len = {cfg.max_len}"
            )
        if not self._slots.fits(1, total):
            raise ValueError(
                f"prompt + max_new_tokens: got {total} tokens, the engine holds at most {self._slots.max_tokens}"
            )
        known = [] if self._adapters is None else list(self._adapters.scales)
        if request.adapter is not None and request.adapter not in known:
            raise ValueError(f"adapter: got {request.adapter!r}, need one of {', '.join(known) or 'none'}")
        low, high = min(request.ids), max(request.ids)
        if low < 0 or high >= cfg.vocab_size:
            raise ValueError(f"ids: got token {low if low < 0 else high}, need 0..{cfg.vocab_size - 1}")

    @property
    def capacity(self) -> int:
        """Tokens that one request may have, prompt and answer together, given the engine's memory."""
        return self._slots.max_tokens

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        with self._lock:
            return len(self._running) + len(self._reading), len(self._waiting)

    def close(self) -> None:
        """End the thread; requests that still run or wait end as cancelled."""
        with self._work:
            self._closed = True
            self._work.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._turns:
            self._cancel_all()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Called by the thread that holds `_turns`.

    def _loop(self) -> None:
        while True:
            with self._work:
                while not (self._closed or self._waiting or self._running or self._reading):
                    self._work.wait()
                if self._closed:
                    break
            with self._turns:
                self._guarded_turn()

    def _guarded_turn(self) -> None:
        try:
            self._turn()
        except Exception as error:  # noqa: BLE001 - a failing step must not leave its listeners waiting for ever
            self._fail(error)
        memory.give_back()

    def _cancel_all(self) -> None:
        rows, self._running, self._reading = self._rows(), [], []
        for row in rows:
            self._end(row, "cancelled")
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for stream in waiting:
            stream.end("cancelled")

    @torch.inference_mode()
    def _turn(self) -> None:
        """Drop cancelled requests, read a piece of one prompt, make one token for every running request."""
        for row in [row for row in self._rows() if row.stream.cancelled]:
            self._leave(row, "cancelled")
        # Without expert capacity: with it a row's tokens would depend on the other rows.
        with dropless(self._step.model) if self._experts else contextlib.nullcontext():
            room = self._chunk if self._running else 8 * self._chunk
            while room > 0 and (self._reading or self._admit()):
                room -= self._read(room)
            if self._running:
                self._decode()

    def _rows(self) -> list[_Row]:
        return [*self._running, *self._reading]

    def _admit(self) -> bool:
        """Give the longest waiting request a slot behind the others, if its tokens fit."""
        with self._lock:
            while self._waiting and self._waiting[0].cancelled:
                self._waiting.popleft().end("cancelled")
            if not self._waiting:
                return False
            request = self._waiting[0].request
            generator = torch.Generator().manual_seed(request.seed % 2**63)
            row = _Row(self._waiting[0], generator, request.adapter or self._current_adapter())
            others = self._rows()
            place, length = len(others), max(each.need for each in [*others, row])
            if not self._slots.fits(place + 1, length):
                return False
            ids = row.request.ids
            alike = (other for other in self._reading if not other.done and other.adapter == row.adapter)
            if len(ids) >= REUSE and any(list(ids[:REUSE]) == list(other.request.ids[:REUSE]) for other in alike):
                return False  # soon it can take over what is being read right now
            self._waiting.popleft()
        self._batch = None
        try:
            self._enter(row)
            self._slots.reserve(place + 1, length)
        except Exception as error:  # noqa: BLE001 - out of memory, or its adapter was taken away: the others go on
            self._end(row, error)
            return False
        row.done = row.reused = self._slots.begin(place, ids, row.adapter, REUSE)
        self._reading.append(row)
        return True

    def _read(self, room: int) -> int:
        """Store the keys and values of at most `room` more tokens of prompts; behind a prompt's last stands the first token.

        Returns:
            tokens read, filling included.
        """
        sizes = self._in_block(room) if self._slots.block else self._in_a_row(room)
        group, place, width = self._reading[: len(sizes)], len(self._running), max(sizes)
        pieces = [list(row.request.ids[row.done : row.done + size]) for row, size in zip(group, sizes, strict=True)]
        cache = self._slots.batch(place, [row.done for row in group], sizes)
        if isinstance(cache, PackedCache):
            cost, ids = sum(sizes), torch.tensor([token for piece in pieces for token in piece])
            with self._with_adapters([row for row, size in zip(group, sizes, strict=True) for _ in range(size)]):
                logits_BV = self._step.pieces(ids.to(self._slots.device), cache)
        else:
            cost, ids = width * len(group), torch.tensor([each + each[-1:] * (width - len(each)) for each in pieces])
            with self._with_adapters(group):
                logits_BV = self._step.prompt(ids.to(self._slots.device), cache, [size - 1 for size in sizes])
        for slot, (row, size) in enumerate(zip(group, sizes, strict=True), place):
            row.done += size
            self._slots.tokens[slot] = list(row.request.ids[: row.done])
        whole = [row for row in group if not row.unread]
        if whole:
            self._running += whole
            del self._reading[: len(whole)]
            self._batch = None
            self._choose(logits_BV[: len(whole)], whole)
        return cost

    def _in_a_row(self, room: int) -> list[int]:
        """How much to read of each of the first prompts: all of it, of the last perhaps a part."""
        sizes: list[int] = []
        while room > 0 and (len(sizes) < len(self._reading) or self._admit()):
            sizes.append(min(room, self._reading[len(sizes)].unread))
            room -= sizes[-1]
        return sizes

    def _in_block(self, room: int) -> list[int]:
        """The same where prompts that are read together are filled up to the longest: a part of one, or several of like length."""
        count = 1 if self._reading[0].unread > room else self._gather(room)
        return [min(room, row.unread) for row in self._reading[:count]]

    def _gather(self, room: int) -> int:
        """Put prompts of about the length of the first behind it, so that little is filled up when they are read together.

        Returns:
            how many, the first included.
        """
        first = self._reading[0]
        count, index, total, width, deepest = 1, 1, first.unread, first.unread, first.done
        while width * (count + 1) <= room and (index < len(self._reading) or self._admit()):
            row = self._reading[index]
            widest, deep = max(width, row.unread), max(deepest, row.done)
            filled = widest * (count + 1)
            fits = filled <= room and deep + widest <= self._slots.length
            if fits and filled <= FILLED * (total + row.unread):
                running = len(self._running)
                self._slots.swap(running + count, running + index)
                self._reading[count], self._reading[index] = row, self._reading[count]
                count, total, width, deepest = count + 1, total + row.unread, widest, deep
            index += 1
        return count

    def _decode(self) -> None:
        rows = self._running
        if not self._batch:
            self._batch = self._slots.batch(0, [row.done for row in rows], [1] * len(rows))
        last = [row.new[-1] for row in rows]
        with self._with_adapters(rows):
            logits_BV = self._step(torch.tensor(last, device=self._slots.device), self._batch)
        for slot, row in enumerate(rows):
            row.done += 1
            self._slots.tokens[slot].append(last[slot])
        self._choose(logits_BV, list(rows))

    def _choose(self, logits_BV: Tensor, rows: list[_Row]) -> None:
        """Draw a token for each row, hand it out, and let rows that are done leave."""
        logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
        asked, fine = [], []
        for i, row in enumerate(rows):
            try:
                asked.append((row.request, row.new, row.request.allowed(row.new) if row.request.allowed else None))
                fine.append(i)
            except Exception as error:  # noqa: BLE001 - the caller's code: its error ends its own request alone
                self._leave(row, error)
        if len(fine) < len(rows):
            logits_BV, rows = logits_BV[fine], [rows[i] for i in fine]
            if not rows:
                return
        masked_BV = masked_logits(logits_BV, asked)
        points = [torch.rand((), generator=row.generator, dtype=torch.float64) for row in rows]
        tokens = draw_rows(masked_BV, [row.request.rule for row in rows], torch.stack(points)).tolist()
        reports = reported(logits_BV, [row.request for row in rows], tokens)
        for row, token, report in zip(rows, tokens, reports, strict=True):
            row.new.append(token)
            try:
                row.stream.emit(report)
                stopped = token in row.request.stop or (row.request.until is not None and row.request.until(token))
            except Exception as error:  # noqa: BLE001 - the caller's code: its error ends its own request alone
                self._leave(row, error)
                continue
            if stopped:
                self._leave(row, "stop")
            elif len(row.new) >= row.request.max_new_tokens:
                self._leave(row, "length")

    def _enter(self, row: _Row) -> None:
        """Its adapter stays until it is over; what was computed with another one of the same name is not used again.

        Raises:
            ValueError: the adapter was taken away while the request waited.
        """
        if self._adapters is None:
            return
        self._adapters.enter(row.adapter)
        row.entered = True
        if self._adapters.changes != self._changes:
            self._changes = self._adapters.changes
            self._forget()

    def _current_adapter(self) -> str | None:
        working = () if self._adapters is None else self._adapters.adapters
        return working[0][0] if working else None

    def _with_adapters(self, rows: Sequence[_Row]) -> contextlib.AbstractContextManager[None]:
        if self._adapters is None:
            return contextlib.nullcontext()
        return working(self.model, [row.adapter for row in rows])

    def forget(self) -> None:
        """Drop what was computed for earlier requests; call it when an adapter has learnt since."""
        with self._turns:
            self._forget()

    def _forget(self) -> None:
        running = len(self._rows())
        self._slots.tokens[running:] = [[] for _ in self._slots.tokens[running:]]

    def _leave(self, row: _Row, reason: Finish | Exception) -> None:
        """Take a row out; the last running row moves into its slot, what it computed stays for later prompts."""
        self._batch = None
        count = len(self._running)
        if row in self._reading:
            place, last = self._reading.index(row), len(self._reading) - 1
            self._slots.swap(count + place, count + last)
            self._reading[place] = self._reading[last]
            self._reading.pop()
            self._slots.leave(count + last)
        else:
            place, last = self._running.index(row), count - 1
            self._slots.swap(place, last)
            self._running[place] = self._running[last]
            self._running.pop()
            if self._reading:  # they close up: the last of them takes the place in front of the first
                self._slots.swap(last, last + len(self._reading))
                self._reading.insert(0, self._reading.pop())
            self._slots.leave(last + len(self._reading))
        self._end(row, reason)

    def _end(self, row: _Row, reason: Finish | Exception) -> None:
        if row.entered and self._adapters is not None:
            self._adapters.leave(row.adapter)
        row.stream.end(reason, row.reused)

    def _fail(self, error: Exception) -> None:
        """An error in the model itself: every request in the batch ends with it, and nothing computed is kept."""
        rows = self._rows()
        self._running, self._reading, self._batch = [], [], None
        self._slots.tokens = [[] for _ in self._slots.tokens]
        for row in rows:
            self._end(row, error)


def request_seed(seed: int, *parts: object) -> int:
    """A seed that depends on `seed` and on the parts' text alone."""
    digest = hashlib.blake2b(struct.pack("<q", seed), digest_size=8)
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    return int.from_bytes(digest.digest(), "little") >> 1
