"""Samples as rows to fine-tune on: decisions, call and answer are learned, what the environment says is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tenfold.align.chat_samples import chat_sample
from tenfold.align.samples import Sample
from tenfold.align.sft import sft_loss
from tenfold.core.errors import UserError
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer
from tenfold.tools.render import FOUND, render
from tenfold.tools.samples import DecisionSample

__all__ = ["sft_loss", "to_sft"]


def to_sft(
    samples: Iterable[DecisionSample],
    tokenizer: Tokenizer,
    mask_environment: bool = True,
    *,
    max_length: int = 2048,
) -> list[Sample]:
    """Rows of tokens in the tokenizer's chat template.

    Args:
        samples: in any branch.
        tokenizer: of the model, with a chat template.
        mask_environment: learn what the model itself says. False also learns the candidates and tools' responses, as the
            released code does.
        max_length: tokens; longer rows are refused, since a cut one would lack its decision.
    Raises:
        UserError: a row that is too long, or a template that leaves a tool's name out.
    Source: L = -(1/|M|) Σ_{i in M} ln p(x_i | x_<i); M as above.
    """
    rows = []
    for sample in samples:
        messages = render(sample)
        row = chat_sample(tokenizer, messages, learn=learned_turns(messages, mask_environment))
        if len(row.ids) > max_length:
            raise UserError(f"sample {sample.query[:40]!r}: got {len(row.ids)} tokens, need at most {max_length}")
        rows.append(row)
    return rows


def learned_turns(messages: Sequence[Message], mask_environment: bool) -> list[int]:
    """Which turns of a transcript are learned."""
    return [
        index
        for index, message in enumerate(messages)
        if message.role == "assistant"
        or (
            not mask_environment
            and (message.role == "tool" or (index == 3 and message.content.startswith(f"{FOUND}\n")))
        )
    ]
