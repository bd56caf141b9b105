"""Continuous batching: requests join and leave a running batch, each token of theirs is handed out as it is made."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from tenfold.core import memory
from tenfold.lm.request import Event, Request
from tenfold.lm.running_batch import RunningBatch
from tenfold.lm.slots import Slots
from tenfold.lm.stepper import Compiled, Stepper, Weights
from tenfold.lm.token_stream import EngineBusyError, EngineClosedError, TokenStream

if TYPE_CHECKING:
    from tenfold.lm.decoder import Decoder


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
        slots = Slots(model.cfg, max_batch, max_batch_tokens, first.dtype, first.device, block=block)
        self._batch = RunningBatch(model, slots, Stepper(model, weights=weights, compiled=compiled), self._admit)
        self._chunk, self._max_waiting = prefill_chunk, max_waiting
        self._waiting: deque[TokenStream] = deque()
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
                idle = not (self._waiting or self._batch.rows())
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
        if not self._batch.slots.fits(1, total):
            raise ValueError(
                f"prompt + max_new_tokens: got {total} tokens, the engine holds at most {self._batch.slots.max_tokens}"
            )
        known = [] if self._batch.adapters is None else list(self._batch.adapters.scales)
        if request.adapter is not None and request.adapter not in known:
            raise ValueError(f"adapter: got {request.adapter!r}, need one of {', '.join(known) or 'none'}")
        low, high = min(request.ids), max(request.ids)
        if low < 0 or high >= cfg.vocab_size:
            raise ValueError(f"ids: got token {low if low < 0 else high}, need 0..{cfg.vocab_size - 1}")

    @property
    def capacity(self) -> int:
        """Tokens that one request may have, prompt and answer together, given the engine's memory."""
        return self._batch.slots.max_tokens

    def load(self) -> tuple[int, int]:
        """(running, waiting) requests."""
        with self._lock:
            return len(self._batch.rows()), len(self._waiting)

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
                while not (self._closed or self._waiting or self._batch.rows()):
                    self._work.wait()
                if self._closed:
                    break
            with self._turns:
                self._guarded_turn()

    def _guarded_turn(self) -> None:
        try:
            self._batch.turn(self._chunk)
        except Exception as error:  # noqa: BLE001 - a failing step must not leave its listeners waiting for ever
            self._batch.fail(error)
        memory.give_back()

    def _cancel_all(self) -> None:
        for row in self._batch.rows():
            self._batch.leave(row, "cancelled")
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for stream in waiting:
            stream.end("cancelled")

    def _admit(self) -> bool:
        """Let the longest waiting request into the batch, if it fits."""
        with self._lock:
            while self._waiting and self._waiting[0].cancelled:
                self._waiting.popleft().end("cancelled")
            if not self._waiting or not self._batch.takes(self._waiting[0].request):
                return False
            stream = self._waiting.popleft()
        return self._batch.join(stream)

    def forget(self) -> None:
        """Drop what was computed for earlier requests; call it when an adapter has learnt since."""
        with self._turns:
            self._batch.forget()


def request_seed(seed: int, *parts: object) -> int:
    """A seed that depends on `seed` and on the parts' text alone."""
    digest = hashlib.blake2b(struct.pack("<q", seed), digest_size=8)
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    return int.from_bytes(digest.digest(), "little") >> 1
