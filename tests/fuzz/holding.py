"""What every parser must hold, whatever it is given: it reads, or refuses in one clear line, in little time and memory."""

from __future__ import annotations

import resource
import sys
import time
import warnings
from pathlib import Path

from mutations import mutate
from parsers import Parser

SECONDS = 10.0  # of the processor, for one call
BYTES = 400 << 20  # that one call may add to the largest memory the process has had
LONGEST = 600  # characters of a message


class Broken(AssertionError):
    """A parser did not hold."""


def held(parser: Parser, root: Path, edits: list[tuple[int, int, int]], chosen: int) -> str | None:
    """Read the parser's example with one of its files damaged.

    Returns:
        how it was refused, or None where it was read.
    Raises:
        Broken: another error than a user's, no clear line, too much time or memory.
    """
    name = sorted(parser.valid)[chosen % len(parser.valid)]
    return read(parser, root, name, mutate(parser.valid[name], edits))


def read(parser: Parser, root: Path, name: str, content: bytes) -> str | None:
    """As `held`, with the content of the file `name` given."""
    parser.write(root, name, content)
    before, began = _largest(), time.process_time()
    said: str | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser.read(root)
    except (ValueError, *parser.refuses) as error:
        said = str(error)
        _check_line(said, parser, root, error)
    except OSError as error:
        if error.filename is None:
            raise Broken(f"{parser.name}: {type(error).__name__}: {str(error)[:300]!r}") from error
        said = f"{error.strerror}: {error.filename!r}"  # the command line says it so
    except Exception as error:
        raise Broken(f"{parser.name}: {type(error).__name__}: {str(error)[:300]!r}") from error
    taken, more = time.process_time() - began, _largest() - before
    if taken > SECONDS:
        raise Broken(f"{parser.name}: took {taken:.1f} s")
    if more > BYTES:
        raise Broken(f"{parser.name}: took {more >> 20} MiB")
    return said


def _check_line(said: str, parser: Parser, root: Path, error: Exception) -> None:
    line = said.replace(str(root), "")
    if not line.strip() or not line.isprintable() or len(line) > LONGEST:
        raise Broken(f"{parser.name}: no clear line of at most {LONGEST} characters: {line[:300]!r}") from error


def _largest() -> int:
    """The largest memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
