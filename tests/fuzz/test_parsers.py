"""Every parser of files and of models' words, given damaged input: it reads, or refuses in one clear line."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

from holding import held
from mutations import KINDS
from parsers import Parser, every

FEW, MANY = 12, 1500  # examples of a parser in CI and in long runs
NUMBERS = st.integers(0, 2**16)
EDITS = st.lists(st.tuples(st.integers(0, len(KINDS) - 1), NUMBERS, NUMBERS), min_size=1, max_size=3)
PARSERS = [pytest.param(parser, id=parser.name) for parser in every()]


def fuzz(parser: Parser, root: Path, examples: int) -> None:
    """Damaged examples, the same in every run."""

    @seed(zlib.crc32(parser.name.encode()))
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(edits=EDITS, chosen=NUMBERS)
    def damaged(edits: list[tuple[int, int, int]], chosen: int) -> None:
        held(parser, root, edits, chosen)

    damaged()


@pytest.mark.parametrize("parser", PARSERS)
def test_the_example_is_read(parser: Parser, tmp_path: Path) -> None:
    parser.write(tmp_path)
    parser.read(tmp_path)


@pytest.mark.parametrize("parser", PARSERS)
def test_damaged_input_is_read_or_refused_in_one_line(parser: Parser, tmp_path: Path) -> None:
    fuzz(parser, tmp_path, FEW // 3 if parser.slow else FEW)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("parser", PARSERS)
def test_much_damaged_input(parser: Parser, tmp_path: Path) -> None:
    fuzz(parser, tmp_path, MANY // 5 if parser.slow else MANY)
