"""What alignment learns from: token ids and which of them are learned, alone and in padded batches."""

# Shape legend: B batch, T tokens of the longest row

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tenfold.lm.loss import IGNORED

Batch = Mapping[str, Tensor]
Keep = Literal["start", "end"]


@dataclass(frozen=True)
class Sample:
    """A row of tokens.

    Args:
        ids: token ids, at least one.
        learned: of each token, whether the model learns to produce it. The first token follows nothing, so it is never
            a target whatever this says.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.learned):
            raise ValueError(f"learned: got {len(self.learned)} for {len(self.ids)} ids, need one each, at least one")

    @classmethod
    def of(cls, prompt: Sequence[int], response: Sequence[int]) -> Sample:
        """A prompt and the response to it, of which the response is learned."""
        return cls((*prompt, *response), (False,) * len(prompt) + (True,) * len(response))

    @property
    def targets(self) -> int:
        """Tokens that count in a loss."""
        return sum(self.learned[1:])

    def cut(self, length: int, keep: Keep = "start") -> Sample:
        """At most `length` tokens, the first or the last ones."""
        if length < 1:
            raise ValueError(f"length: got {length}, need at least 1 token")
        part = slice(length) if keep == "start" else slice(-length, None)
        return Sample(self.ids[part], self.learned[part])


def pad(samples: Sequence[Sample], padding: int = 0) -> dict[str, Tensor]:
    """A batch of rows, filled up on the right.

    Args:
        samples: B rows of up to T tokens.
        padding: id that fills rows up; any will do, a causal model does not see it.
    Returns:
        (B, T) each: "ids", int64; "targets", int64, the token that follows where it is learned, else -100; "mask", bool,
        False at padding.
    """
    if not samples:
        raise ValueError("samples: got none, need at least one row")
    length = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), length), padding)
    targets = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, sample in enumerate(samples):
        size = len(sample.ids)
        ids[row, :size] = torch.tensor(sample.ids)
        following = ids[row, 1:size]
        targets[row, : size - 1] = torch.where(torch.tensor(sample.learned[1:], dtype=torch.bool), following, IGNORED)
        mask[row, :size] = True
    return {"ids": ids, "targets": targets, "mask": mask}


def rows(batch: Batch, index: Tensor | slice) -> dict[str, Tensor]:
    """Some rows of a batch: every entry is indexed alike."""
    return {name: value[index] for name, value in batch.items()}
