"""Rows of games as token batches for the losses, in an order that resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.align.chat_samples import chat_sample
from tenfold.align.logprobs import CACHED, logprobs_of
from tenfold.align.samples import Sample, pad
from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream
from tenfold.games.credit import GameRow
from tenfold.games.referee import ROLES
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer

MAX_LENGTH = 2048  # tokens of the paper's rows


@dataclass(frozen=True)
class TokenRow:
    """A row in tokens. `role` is the index of the speaker, -1 for fine-tuning; `ref_logprob` the reference's Σ ln p."""

    sample: Sample
    reward: float = 0.0
    weight: float = 1.0
    sft: bool = False
    role: int = -1
    ref_logprob: float | None = None


def token_rows(
    rows: Sequence[GameRow], tokenizer: Tokenizer, length: int = MAX_LENGTH, roles: Sequence[str] = ROLES
) -> list[TokenRow]:
    """Encode rows; the target and its end token are learned.

    A query of text is encoded as it stands, behind the begin token where the tokenizer has one; a chat by the
    tokenizer's template. Rows that are too long lose their beginning.

    Raises:
        UserError: a tokenizer without an end token, or a chat without a template for it.
    """
    if tokenizer.eos_id is None:
        raise UserError("tokenizer: it has no end-of-text token, which closes an utterance")
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    found = []
    for row in rows:
        if isinstance(row.query, str):
            asked, said = tokenizer.encode_batch([row.query, row.target])
            sample = Sample.of([*begin, *asked], [*said, tokenizer.eos_id])
        else:
            messages = [*row.query, Message("assistant", row.target)]
            sample = chat_sample(tokenizer, messages, learn=[len(messages) - 1])
        role = roles.index(row.role) if row.role in roles else -1
        found.append(TokenRow(sample.cut(length, keep="end"), row.reward, row.weight, row.sft, role))
    return found


def with_reference(rows: Sequence[TokenRow], model: nn.Module, *, batch_tokens: int = 8192) -> list[TokenRow]:
    """The rows with what `model` makes of them, so that no reference model is needed while learning."""
    sums = logprobs_of(model, [row.sample for row in rows], batch_tokens=batch_tokens)
    return [replace(row, ref_logprob=value) for row, value in zip(rows, sums, strict=True)]


def collate_rows(rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    """A batch for `spag_loss` and `imitation_loss`: `pad`'s columns and those of the rows, (B,) each."""
    batch = pad([row.sample for row in rows])
    batch["rewards"] = torch.tensor([row.reward for row in rows])
    batch["weights"] = torch.tensor([row.weight for row in rows])
    batch["sft_mask"] = torch.tensor([row.sft for row in rows])
    batch["roles"] = torch.tensor([row.role for row in rows])
    sums = [row.ref_logprob for row in rows if row.ref_logprob is not None]
    if len(sums) == len(rows):
        batch[CACHED] = torch.tensor(sums)
    return batch


class GameBatches:
    """An endless stream of micro-batches; `accumulate` of them in a row make one batch.

    Each carries the shares of played and fine-tuning rows in its whole batch, by which `spag_loss` makes the sum over
    micro-batches and ranks that of the batch. Its state is that of whole batches.

    Args:
        rows: what is learned from; they come in the order of (seed, epoch).
        batch_size: rows of one batch over all micro-batches and ranks.
        accumulate: micro-batches of a batch.
        seed: of the order.
        rank, world: this process takes the `rank`-th of `world` equal parts.
    """

    def __init__(
        self,
        rows: Sequence[TokenRow],
        batch_size: int,
        accumulate: int = 1,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not rows:
            raise UserError("rows: got none, need at least one")
        if accumulate < 1 or batch_size < 1 or batch_size % (accumulate * world):
            raise ValueError(
                f"batch_size, accumulate: got {batch_size}, {accumulate}, need a multiple of accumulate x {world} (world)"
            )
        self.stream = ArrayStream(rows, batch_size, seed=seed, collate=list)
        self.parts, self.part, self.world = accumulate * world, rank, world

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for rows in self.stream:
            fine = math.fsum(row.sft for row in rows) / len(rows)
            size = len(rows) // self.parts
            for index in range(self.part, self.parts, self.world):
                batch = collate_rows(rows[index * size : (index + 1) * size])
                yield {**batch, "rl_share": torch.tensor(1 - fine), "sft_share": torch.tensor(fine)}

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state)
