"""BIG-Bench Hard's tasks of choice as rows that score by likelihood, here and under lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.games.files import read_rows
from tenfold.lm.options import MOST_LABELS, lettered_options, listed_options


def choice_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a task as `{"id", "context", "choices", "gold"}`, the form of `tenfold.lm.tasks`.

    The choices are the listed options (by their letters, where they have some), else the answers of the whole task.

    Args:
        path: JSON Lines of `{"input", "target"}`.
    Returns:
        the rows whose target is an option; the benchmark has a few others.
    Raises:
        UserError: no such file, other columns, or a task without choices (word_sorting, say), which would have to be
            generated.
    Source: Suzgun et al. 2022, arXiv 2210.09261; scored there by exact match behind demonstrations, here without any.
    """
    rows = read_rows(path)
    if not all(isinstance(row.get(name), str) for _, row in rows for name in ("input", "target")):
        raise UserError(f"{path}: need input and target, both text, in every row")
    answers = sorted({row["target"] for _, row in rows})
    found = []
    for index, (_, row) in enumerate(rows):
        options = [f"({letter})" for letter in lettered_options(row["input"])] or listed_options(row["input"])
        choices = options or answers
        if not options and len(answers) > MOST_LABELS:
            raise UserError(
                f"{path}: {len(answers)} different answers and no options to choose from; take another task"
            )
        if row["target"] in choices:
            context, id = f"Q: {row['input']}\nA:", str(row.get("id", index))
            found.append({"id": id, "context": context, "choices": choices, "gold": choices.index(row["target"])})
    return found
