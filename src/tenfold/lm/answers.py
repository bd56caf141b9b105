"""Greedy answers as text: prompts in, text up to the first stop string out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from tenfold.lm.decoder import Decoder
from tenfold.lm.generate import generate as decode
from tenfold.lm.loglikelihood import TextEncoder, model_max_len, scoring_mode
from tenfold.lm.tasks import NotAvailable

# Prompts (token ids), tokens to add, stop ids -> the new tokens of each prompt, greedily.
GreedyGenerate = Callable[[list[list[int]], int, Sequence[int]], list[list[int]]]

FIRST_ROUND = 32  # tokens before stop strings are looked for; doubles every round


def greedy_answers(
    model: nn.Module,
    encoder: TextEncoder,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    batch: int = 16,
    max_len: int | None = None,
    dropless: bool = True,
    generate: GreedyGenerate | None = None,
) -> list[str]:
    """Continue every prompt greedily and cut the text before the first stop string.

    Args:
        model: the decoder.
        encoder: its tokenizer; the eos token ends an answer too.
        prompts: texts; longer ones than `max_len - max_new_tokens` tokens lose tokens on the left.
        max_new_tokens: the most tokens of an answer.
        stop: strings that end an answer (they are not part of it).
        batch: prompts generated together; prompts of like length share a batch.
        max_len: longest sequence; None takes the model's own limit.
        dropless: mixture-of-experts layers run without capacity.
        generate: greedy generation for models that are not a `Decoder`.
    Returns:
        The answers, in the order of the prompts.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}, need at least 1")
    limit = max_len or model_max_len(model)
    if limit is not None and limit <= max_new_tokens:
        raise NotAvailable(f"max_new_tokens: got {max_new_tokens}, need fewer than the model's length ({limit})")
    if generate is None and not isinstance(model, Decoder):
        raise NotAvailable(
            f"model: {type(model).__name__} has no generation here; pass generate=, a greedy function of ids"
        )
    ids = [encoder.encode(prompt) or [encoder.prefix_id] for prompt in prompts]
    if limit is not None:
        ids = [row[-(limit - max_new_tokens) :] for row in ids]
    answers = [""] * len(ids)
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    with scoring_mode(model, dropless):
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            batch_ids = [ids[i] for i in chosen]
            if generate is not None:
                texts = _rounds(generate, encoder, batch_ids, max_new_tokens, stop)
            else:
                assert isinstance(model, Decoder)
                texts = _in_one_go(model, encoder, batch_ids, max_new_tokens, stop)
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text
    return answers


def _in_one_go(
    model: Decoder, encoder: TextEncoder, prompts: list[list[int]], max_new_tokens: int, stop: Sequence[str]
) -> list[str]:
    """Our own decoder looks for the stop strings after each token."""
    ends = () if encoder.eos_id is None else (encoder.eos_id,)

    def stopped(new: list[int]) -> bool:
        text = encoder.decode(new)
        return cut_at(text, stop) != text

    made = decode(model, prompts, max_new_tokens=max_new_tokens, temperature=0.0, stop=ends, until=stopped)
    rows = [row[:-1] if row and row[-1] in ends else row for row in made.ids]
    return [cut_at(encoder.decode(row), stop) for row in rows]


def _rounds(
    run: GreedyGenerate, encoder: TextEncoder, prompts: list[list[int]], max_new_tokens: int, stop: Sequence[str]
) -> list[str]:
    """Generate in rounds of growing length: most answers stop early, and a stop string is seen only in the text."""
    ends = () if encoder.eos_id is None else (encoder.eos_id,)
    new: list[list[int]] = [[] for _ in prompts]
    texts = ["" for _ in prompts]
    going = list(range(len(prompts)))
    length, round_length = 0, FIRST_ROUND
    while going and length < max_new_tokens:
        tokens = min(round_length, max_new_tokens - length)
        grown = run([prompts[i] + new[i] for i in going], tokens, ends)
        length, round_length = length + tokens, 2 * round_length
        still = []
        for i, more in zip(going, grown, strict=True):
            ended = next((at for at, token in enumerate(more) if token in ends), None)
            new[i] += more if ended is None else more[:ended]
            text = encoder.decode(new[i])
            texts[i] = cut_at(text, stop)
            if ended is None and texts[i] == text:
                still.append(i)
        going = still
    return texts


def cut_at(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first of the stop strings."""
    for mark in stop:
        if mark:
            text = text.split(mark)[0]
    return text
