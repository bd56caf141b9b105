"""Text of tokens as they arrive: whole characters only, and nothing that may still become a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenfold.text.tokenizer import Tokenizer

TORN = "\ufffd"  # how a decoder writes bytes that are no whole character (yet)


class TextStream:
    """Turns token ids, one at a time, into pieces of text that can be shown at once.

    Joined, the pieces are the text of all tokens up to the first stop string. A character whose bytes come in several
    tokens is held back until it is whole; so is an end of the text that a stop string begins with.

    Args:
        tokenizer: whose ids they are; control tokens give no text.
        stop: strings that end the text and are not part of it.
    Attributes:
        stopped: the stop string that was met, None before.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        if not all(stop):
            raise ValueError("stop: got an empty string, need strings with text")
        self.stopped: str | None = None
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # Ids decoded together: those of the last whole piece (a decoder may treat the first token of a text otherwise
        # than a later one), then the new ones. `_shown` characters of their text were passed on before.
        self._window: list[int] = []
        self._read = 0
        self._shown = 0
        self._held = ""

    def push(self, token: int) -> str:
        """The text that this token makes certain; empty where it must wait."""
        if self.stopped is not None or token >= self._tokenizer.vocab_size:
            return ""  # models round their vocabulary up: the ids behind the tokenizer's last mean nothing
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(TORN)
        piece = text[self._shown : max(self._shown, len(whole))]
        self._shown += len(piece)
        if len(whole) == len(text):
            self._window, self._read = self._window[self._read :], len(self._window) - self._read
            self._shown = len(self._decode(self._window))
        return self._release(piece, last=False)

    def finish(self) -> str:
        """What is still held back, when no token follows; torn characters become U+FFFD."""
        if self.stopped is not None:
            return ""
        return self._release(self._decode(self._window)[self._shown :], last=True)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _release(self, piece: str, last: bool) -> str:
        text = self._held + piece
        found = [(at, mark) for mark in self._stop if (at := text.find(mark)) >= 0]
        if found:
            at, self.stopped = min(found)
            return text[:at]
        keep = 0 if last else max((_overlap(text, mark) for mark in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that `mark` begins with."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
