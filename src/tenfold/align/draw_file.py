"""Finished draws in a file, so that a killed process repeats none of them."""

from __future__ import annotations

import hashlib
import json
from collections import UserDict
from collections.abc import Sequence
from pathlib import Path

from tenfold.core.atomic import append_line
from tenfold.core.errors import UserError
from tenfold.text.messages import Sampling


class DrawFile(UserDict[tuple[int, int], list[int]]):
    """(prompt's index, draw) to the tokens drawn, as `rollout.respond` keeps them; each is appended as it is set.

    The file's first line tells which prompts and settings its draws belong to; the others hold one draw each.

    Args:
        path: JSON lines; made if missing. A last line that a kill tore is left out.
        asked: token ids of the prompts.
        sampling: how the draws are made.
    Raises:
        UserError: a file of other prompts or settings, or a damaged one.
    """

    def __init__(self, path: Path, asked: Sequence[Sequence[int]], sampling: Sampling) -> None:
        super().__init__()
        self.path = path
        head = {"draws of": hashlib.sha256(json.dumps([list(map(list, asked)), repr(sampling)]).encode()).hexdigest()}
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, json.dumps(head))
            return
        try:
            first, *rows = map(json.loads, lines)
            self.data = {(row["prompt"], row["draw"]): [int(id) for id in row["ids"]] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: damaged ({type(error).__name__}); delete it, and its draws are made again"
            ) from None
        if first != head:
            raise UserError(f"{path}: holds draws of other prompts or settings; delete it, or take another folder")

    def __setitem__(self, place: tuple[int, int], ids: list[int]) -> None:
        self.data[place] = ids
        append_line(self.path, json.dumps({"prompt": place[0], "draw": place[1], "ids": ids}))
