"""The rows of an engine that run: what they read, which tokens they get, and how they join and leave."""

# Shape legend: B rows, V vocabulary

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tenfold.lm.packed_cache import PackedCache
from tenfold.lm.request import Finish, Request, masked_logits, reported
from tenfold.lm.sampling import draw_rows
from tenfold.lm.slots import Slots
from tenfold.lm.stepper import Stepper
from tenfold.lm.token_stream import TokenStream
from tenfold.nn.lora_layer import active_of, working
from tenfold.nn.moe import dropless, moe_layers

if TYPE_CHECKING:
    from tenfold.lm.decoder import Decoder
    from tenfold.lm.kv_cache import KVCache

FILLED = 1.2  # of what prompts that are read together come to, so much with what fills them up
REUSE = 16  # tokens that a kept prefix must save before it is worth moving


@dataclass(eq=False)
class Row:
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


class RunningBatch:
    """Rows that are made a token each at a time, and rows whose prompts are still being read.

    Args:
        model: the decoder, whose adapters the rows may ask for.
        slots: where keys and values lie: row i of the running ones in slot i, behind them those that read.
        step: how the model is run.
        more: asks for one more row while there is room to read; False where nobody waits or nothing fits.
    """

    def __init__(self, model: Decoder, slots: Slots, step: Stepper, more: Callable[[], bool]) -> None:
        self.model, self.slots, self.step, self.more = model, slots, step, more
        self.running: list[Row] = []
        self.reading: list[Row] = []
        self._cache: KVCache | PackedCache | None = None  # over the running rows, kept while they stay the same
        self._experts = any(True for _ in moe_layers(model))
        self.adapters = active_of(model)
        self._changes = 0 if self.adapters is None else self.adapters.changes

    def rows(self) -> list[Row]:
        """All, in the order of their slots."""
        return [*self.running, *self.reading]

    @torch.inference_mode()
    def turn(self, chunk: int) -> None:
        """Drop cancelled rows, read pieces of prompts, make one token for every running row.

        Args:
            chunk: tokens of prompts that are read; eight times as many while no row runs.
        """
        for row in [row for row in self.rows() if row.stream.cancelled]:
            self.leave(row, "cancelled")
        # Without expert capacity: with it a row's tokens would depend on the other rows.
        with dropless(self.step.model) if self._experts else contextlib.nullcontext():
            room = chunk if self.running else 8 * chunk
            while room > 0 and (self.reading or self.more()):
                room -= self.read(room)
            if self.running:
                self.decode()

    def takes(self, request: Request) -> bool:
        """Whether a request can have a slot behind the others now."""
        others, ids, adapter = self.rows(), request.ids, request.adapter or self._current_adapter()
        longest = max(each.need for each in [request, *(other.request for other in others)])
        if not self.slots.fits(len(others) + 1, longest):
            return False
        alike = (other for other in self.reading if not other.done and other.adapter == adapter)
        # Soon it can take over what is being read right now.
        return len(ids) < REUSE or not any(list(ids[:REUSE]) == list(other.request.ids[:REUSE]) for other in alike)

    def join(self, stream: TokenStream) -> bool:
        """Give a request that `takes` allows its slot; False where it ended at once, with an error."""
        request = stream.request
        generator = torch.Generator().manual_seed(request.seed % 2**63)
        row = Row(stream, generator, request.adapter or self._current_adapter())
        others = self.rows()
        self._cache = None
        try:
            self._enter(row)
            self.slots.reserve(len(others) + 1, max(each.request.need for each in [*others, row]))
        except Exception as error:  # noqa: BLE001 - out of memory, or its adapter was taken away: the others go on
            self._end(row, error)
            return False
        row.done = row.reused = self.slots.begin(len(others), request.ids, row.adapter, REUSE)
        self.reading.append(row)
        return True

    def read(self, room: int) -> int:
        """Store the keys and values of at most `room` more tokens of prompts; behind a prompt's last stands the first token.

        Returns:
            tokens read, filling included.
        """
        sizes = self._in_block(room) if self.slots.block else self._in_a_row(room)
        group, place, width = self.reading[: len(sizes)], len(self.running), max(sizes)
        pieces = [list(row.request.ids[row.done : row.done + size]) for row, size in zip(group, sizes, strict=True)]
        cache = self.slots.batch(place, [row.done for row in group], sizes)
        if isinstance(cache, PackedCache):
            cost, ids = sum(sizes), torch.tensor([token for piece in pieces for token in piece])
            with self._with_adapters([row for row, size in zip(group, sizes, strict=True) for _ in range(size)]):
                logits_BV = self.step.pieces(ids.to(self.slots.device), cache)
        else:
            cost, ids = width * len(group), torch.tensor([each + each[-1:] * (width - len(each)) for each in pieces])
            with self._with_adapters(group):
                logits_BV = self.step.prompt(ids.to(self.slots.device), cache, [size - 1 for size in sizes])
        for slot, (row, size) in enumerate(zip(group, sizes, strict=True), place):
            row.done += size
            self.slots.tokens[slot] = list(row.request.ids[: row.done])
        whole = [row for row in group if not row.unread]
        if whole:
            self.running += whole
            del self.reading[: len(whole)]
            self._cache = None
            self._choose(logits_BV[: len(whole)], whole)
        return cost

    def _in_a_row(self, room: int) -> list[int]:
        """How much to read of each of the first prompts: all of it, of the last perhaps a part."""
        sizes: list[int] = []
        while room > 0 and (len(sizes) < len(self.reading) or self.more()):
            sizes.append(min(room, self.reading[len(sizes)].unread))
            room -= sizes[-1]
        return sizes

    def _in_block(self, room: int) -> list[int]:
        """The same where prompts that are read together are filled up to the longest: a part of one, or several of like length."""
        count = 1 if self.reading[0].unread > room else self._gather(room)
        return [min(room, row.unread) for row in self.reading[:count]]

    def _gather(self, room: int) -> int:
        """Put prompts of about the length of the first behind it, so that little is filled up when they are read together.

        Returns:
            how many, the first included.
        """
        first = self.reading[0]
        count, index, total, width, deepest = 1, 1, first.unread, first.unread, first.done
        while width * (count + 1) <= room and (index < len(self.reading) or self.more()):
            row = self.reading[index]
            widest, deep = max(width, row.unread), max(deepest, row.done)
            filled = widest * (count + 1)
            fits = filled <= room and deep + widest <= self.slots.length
            if fits and filled <= FILLED * (total + row.unread):
                running = len(self.running)
                self.slots.swap(running + count, running + index)
                self.reading[count], self.reading[index] = row, self.reading[count]
                count, total, width, deepest = count + 1, total + row.unread, widest, deep
            index += 1
        return count

    def decode(self) -> None:
        rows = self.running
        if not self._cache:
            self._cache = self.slots.batch(0, [row.done for row in rows], [1] * len(rows))
        last = [row.new[-1] for row in rows]
        with self._with_adapters(rows):
            logits_BV = self.step(torch.tensor(last, device=self.slots.device), self._cache)
        for slot, row in enumerate(rows):
            row.done += 1
            self.slots.tokens[slot].append(last[slot])
        self._choose(logits_BV, list(rows))

    def _choose(self, logits_BV: Tensor, rows: list[Row]) -> None:
        """Draw a token for each row, hand it out, and let rows that are done leave."""
        logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
        asked, fine = [], []
        for i, row in enumerate(rows):
            try:
                asked.append((row.request, row.new, row.request.allowed(row.new) if row.request.allowed else None))
                fine.append(i)
            except Exception as error:  # noqa: BLE001 - the caller's code: its error ends its own request alone
                self.leave(row, error)
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
                self.leave(row, error)
                continue
            if stopped:
                self.leave(row, "stop")
            elif len(row.new) >= row.request.max_new_tokens:
                self.leave(row, "length")

    def _enter(self, row: Row) -> None:
        """Its adapter stays until it is over; what was computed with another one of the same name is not used again.

        Raises:
            ValueError: the adapter was taken away while the request waited.
        """
        if self.adapters is None:
            return
        self.adapters.enter(row.adapter)
        row.entered = True
        if self.adapters.changes != self._changes:
            self._changes = self.adapters.changes
            self.forget()

    def _current_adapter(self) -> str | None:
        working = () if self.adapters is None else self.adapters.adapters
        return working[0][0] if working else None

    def _with_adapters(self, rows: Sequence[Row]) -> contextlib.AbstractContextManager[None]:
        if self.adapters is None:
            return contextlib.nullcontext()
        return working(self.model, [row.adapter for row in rows])

    def forget(self) -> None:
        """Drop what was computed for earlier requests."""
        running = len(self.rows())
        self.slots.tokens[running:] = [[] for _ in self.slots.tokens[running:]]

    def leave(self, row: Row, reason: Finish | Exception) -> None:
        """Take a row out; the last running row moves into its slot, what it computed stays for later prompts."""
        self._cache = None
        count = len(self.running)
        if row in self.reading:
            place, last = self.reading.index(row), len(self.reading) - 1
            self.slots.swap(count + place, count + last)
            self.reading[place] = self.reading[last]
            self.reading.pop()
            self.slots.leave(count + last)
        else:
            place, last = self.running.index(row), count - 1
            self.slots.swap(place, last)
            self.running[place] = self.running[last]
            self.running.pop()
            if self.reading:  # they close up: the last of them takes the place in front of the first
                self.slots.swap(last, last + len(self.reading))
                self.reading.insert(0, self.reading.pop())
            self.slots.leave(last + len(self.reading))
        self._end(row, reason)

    def _end(self, row: Row, reason: Finish | Exception) -> None:
        if row.entered and self.adapters is not None:
            self.adapters.leave(row.adapter)
        row.stream.end(reason, row.reused)

    def fail(self, error: Exception) -> None:
        """An error in the model itself: every request in the batch ends with it, and nothing computed is kept."""
        rows = self.rows()
        self.running, self.reading, self._cache = [], [], None
        self.slots.tokens = [[] for _ in self.slots.tokens]
        for row in rows:
            self._end(row, error)
