"""Supervised fine-tuning: rows of conversations in, batches and their loss out.

A row is a JSON object with one of these columns, the names of OpenAI's fine-tuning files and of trl:

| columns | what is learned |
|---|---|
| messages (and tools) | every assistant turn, but for those with "weight": 0 |
| prompt, completion as lists of messages (and tools) | the assistant turns of the completion |
| prompt, completion as texts | the completion: as an assistant's turn, or with `plain` as running text |
"""

# Shape legend: B batch, T tokens a model sees of a row

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.align.chat_samples import chat_sample, read_messages
from tenfold.align.logprobs import auxiliary, token_logprobs
from tenfold.align.samples import Batch, Sample, pad
from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream, Batcher, PackedRow, Packer, Segment, Stream
from tenfold.lm.loss import IGNORED
from tenfold.lm.tasks import numbered_rows
from tenfold.text.messages import Message
from tenfold.text.packing import collate_text
from tenfold.text.tokenizer import Tokenizer

_GIVEN, _LEARNED = 0, 1  # kinds of packed tokens


def sft_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy of the learned tokens, in nats, plus the auxiliary loss of experts.

    The output layer runs on the learned positions only, a few at a time: no logits of the whole batch are ever held.

    Args:
        model: our decoder, or a causal language model of Hugging Face.
        batch: "ids" and "targets", int64 (B, T), as `pad` and `sft_batches` give them.
    Returns:
        the loss, and metrics: "ce"; "weight", the number of learned tokens; with experts "aux".
    Source: L = -(1/|M|) Σ_{i in M} ln p(x_i | x_<i), M the assistant's tokens.
    """
    logp_BT = token_logprobs(model, batch)
    weight = (batch["targets"] != IGNORED).sum()
    ce = -logp_BT.sum() / weight.clamp(min=1)
    extra, metrics = auxiliary(model)
    return ce + extra, {"ce": ce.detach(), "weight": weight, **metrics}


def sft_sample(row: Mapping[str, Any], tokenizer: Tokenizer, *, plain: bool = False, where: str = "row") -> Sample:
    """The tokens of one row (see the table above).

    Args:
        row: the JSON object.
        tokenizer: with a chat template unless `plain`.
        plain: prompt and completion texts stand as they are, encoded apart and closed by the end-of-text token.
        where: what opens the message of an error.
    Raises:
        UserError: other columns, or turns that no model can learn from.
    """
    if "messages" in row:
        messages = read_messages(row["messages"], f"{where}: messages")
        unlearned = {i for i, each in enumerate(row["messages"]) if each.get("weight") == 0}
        first = 0
    elif "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if plain:
            return _plain(tokenizer, prompt, completion, where)
        asked = _turns(prompt, "user", f"{where}: prompt")
        messages = asked + _turns(completion, "assistant", f"{where}: completion")
        unlearned, first = set[int](), len(asked)
    else:
        raise UserError(f"{where}: got {', '.join(sorted(row))}, need messages, or prompt and completion")
    turns = [i for i in range(first, len(messages)) if messages[i].role == "assistant" and i not in unlearned]
    try:
        return chat_sample(tokenizer, messages, learn=turns, tools=row.get("tools") or ())
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def sft_samples(
    rows: Iterable[Mapping[str, Any]] | str | Path, tokenizer: Tokenizer, length: int, *, plain: bool = False
) -> list[Sample]:
    """The samples of rows, or of a JSON Lines file of them (plain or .gz), cut to `length` tokens.

    Args:
        rows: JSON objects, or the file's path.
        tokenizer, plain: as in `sft_sample`.
        length: tokens of a row at most; longer ones lose their end.
    Raises:
        UserError: no rows, a row without a learned turn, or one so long that no learned token is left.
    """
    samples = []
    for where, row in numbered_rows(rows, "rows", "messages, or prompt and completion"):
        whole = sft_sample(row, tokenizer, plain=plain, where=where)
        sample = whole.cut(length)
        if not sample.targets:
            raise UserError(f"{where}: none of its {len(whole.ids)} tokens to learn is among the first {length}")
        samples.append(sample)
    return samples


def sft_batches(
    samples: Sequence[Sample] | Stream,
    length: int,
    batch_size: int,
    *,
    seed: int = 0,
    packed: bool = True,
    rank: int = 0,
    world: int = 1,
) -> Batcher:
    """An endless stream of batches for `sft_loss` that resumes exactly.

    Args:
        samples: rows of up to `length` tokens, which come in the order of (seed, epoch); or a stream of such, say a
            `Mixture` of several sources.
        length: T.
        batch_size: B, rows of one batch over all ranks together.
        seed: of the order; a stream has its own.
        packed: several samples share a row, none is cut, attention stays inside each. False: one row a sample, filled
            up to the longest of its batch; Hugging Face's models need that.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
    """
    stream = samples if isinstance(samples, Stream) else ArrayStream(samples, seed=seed)
    if not packed:
        return Batcher(stream, batch_size, collate=pad, rank=rank, world=world)
    packer = Packer(_Documents(stream, length), length, "first_fit")
    return Batcher(packer, batch_size, collate=_collate_packed, rank=rank, world=world)


class _Documents:
    """A stream of samples as the packer reads them: segments, whose kind says whether they are learned."""

    def __init__(self, stream: Stream, length: int) -> None:
        self.stream, self.length = stream, length

    def __iter__(self) -> Iterator[list[Segment]]:
        for sample in self.stream:
            if len(sample.ids) > self.length:  # the packer would cut it
                raise ValueError(f"samples: got one of {len(sample.ids)} tokens, need at most {self.length} (length)")
            ids, kinds = np.array(sample.ids, dtype=np.int64), np.array(sample.learned, dtype=np.int64)
            edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1), len(ids)]
            yield [Segment(ids[a:b], int(kinds[a])) for a, b in pairwise(edges)]

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state)


def _collate_packed(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    batch = collate_text(rows)
    kinds = torch.stack([row.kinds for row in rows])[:, 1:]
    batch["targets"] = torch.where(kinds == _LEARNED, batch["targets"], IGNORED)
    return batch


def _turns(value: Any, role: str, where: str) -> list[Message]:
    if isinstance(value, str):
        return [Message(role, value)]
    return read_messages(value, where)


def _plain(tokenizer: Tokenizer, prompt: Any, completion: Any, where: str) -> Sample:
    if not (isinstance(prompt, str) and prompt and isinstance(completion, str) and completion.strip()):
        raise UserError(f"{where}: prompt, completion: need two texts that are not empty")
    if tokenizer.eos_id is None:
        raise UserError("tokenizer: it has no end-of-text token, which closes a completion")
    asked, said = tokenizer.encode_batch([prompt, completion])
    return Sample.of(asked, [*said, tokenizer.eos_id])
