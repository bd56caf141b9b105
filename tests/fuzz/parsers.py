"""What reads files and the words of models: a valid example, and the call that reads it. Tests and long runs share it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parser:
    """Something that reads what it should not trust.

    Args:
        name: what the test is called.
        make: writes a small valid example into a folder.
        read: reads the folder.
        refuses: errors of its own, besides ValueError (of which UserError is one).
        slow: takes so long a call that CI tries few examples.
    """

    name: str
    make: Callable[[Path], Any]
    read: Callable[[Path], Any]
    refuses: tuple[type[Exception], ...] = ()
    slow: bool = False

    @functools.cached_property
    def valid(self) -> dict[str, bytes]:
        """The files of the example, by their path in its folder."""
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            self.make(root)
            return {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in sorted(root.rglob("*"))
                if path.is_file() and path.stat().st_size < 1 << 20
            }

    def write(self, root: Path, name: str | None = None, content: bytes = b"") -> None:
        """Lay the example out in `root`, with another content of one file."""
        for file, valid in self.valid.items():
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if file == name else valid)


def text(name: str, valid: str, parse: Callable[[str], Any], *refuses: type[Exception]) -> Parser:
    """Reads a model's words; bytes that are no UTF-8 become halves of surrogate pairs, as JSON can spell them."""

    def read(root: Path) -> Any:
        return parse((root / "words").read_bytes().decode("utf-8", "surrogateescape"))

    return Parser(name, lambda root: (root / "words").write_text(valid), read, refuses)


def file(name: str, valid: str | bytes, parse: Callable[[Path], Any], called: str = "data.jsonl") -> Parser:
    """Reads one file."""
    content = valid.encode() if isinstance(valid, str) else valid
    return folder(name, {called: content}, lambda root: parse(root / called))


def folder(
    name: str, files: dict[str, str | bytes] | Callable[[Path], Any], read: Callable[[Path], Any], **more: Any
) -> Parser:
    """Reads several files; they are given, or a function writes them."""

    def make(root: Path) -> None:
        assert isinstance(files, dict)
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return Parser(name, files if callable(files) else make, read, **more)


def every() -> list[Parser]:
    """All of them; imports what they need."""
    import data_parsers
    import model_parsers
    import word_parsers

    parsers = [*word_parsers.PARSERS, *data_parsers.PARSERS, *model_parsers.PARSERS]
    assert len({parser.name for parser in parsers}) == len(parsers)
    return parsers
