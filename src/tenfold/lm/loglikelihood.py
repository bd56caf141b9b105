"""Log-likelihood of text under a causal language model, in batches that do not change the result.

Conventions are those of lm-evaluation-harness 0.4.13, so that scores compare: context and continuation are tokenised
together and split at the context's length, spaces that end the context belong to the continuation, an empty context is
the tokenizer's bos (else eos) token, and what is longer than the model loses tokens on the left.
"""

# Shape legend: B rows of a batch, S tokens of the longest row, D model, V vocabulary, N scored positions

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.lm.decoder import Decoder
from tenfold.nn.moe import dropless as no_capacity
from tenfold.nn.moe import moe_layers

logger = logging.getLogger(__name__)

ROLLING_WINDOW = 2048  # tokens a window of running text, for models that state no limit
HEAD_CHUNK = 1024  # positions whose logits exist at once in float32: bounds memory at large vocabularies


class TextEncoder:
    """Any tokenizer behind one pair of calls: ours, Hugging Face's, or a bare `tokenizers.Tokenizer`.

    Args:
        tokenizer: has `encode(text)` giving ids (or an object with `.ids`) and `decode(ids)`.
        prefix_id: token that stands for an empty context; None takes bos, else eos.
    """

    def __init__(self, tokenizer: Any, prefix_id: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._prefix_id = prefix_id
        parameters = inspect.signature(tokenizer.encode).parameters
        self._special_switch = "add_special_tokens" in parameters

    def encode(self, text: str, special_tokens: bool = True) -> list[int]:
        """Ids of `text`; `special_tokens=False` keeps the tokenizer from adding any."""
        extra = {} if special_tokens or not self._special_switch else {"add_special_tokens": False}
        encoded = self.tokenizer.encode(text, **extra)
        return list(getattr(encoded, "ids", encoded))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    @property
    def eos_id(self) -> int | None:
        return _first_id(self.tokenizer, "eos_id", "eos_token_id")

    @property
    def prefix_id(self) -> int:
        """Token of an empty context. Raises ValueError: the tokenizer has neither bos nor eos and none was given."""
        if self._prefix_id is not None:
            return self._prefix_id
        found = _first_id(self.tokenizer, "bos_id", "bos_token_id", "eos_id", "eos_token_id")
        if found is None:
            raise ValueError("tokenizer: got neither a bos nor an eos token, need prefix_id to score empty contexts")
        return found


def _first_id(tokenizer: Any, *names: str) -> int | None:
    return next((getattr(tokenizer, name) for name in names if getattr(tokenizer, name, None) is not None), None)


@dataclass(frozen=True)
class TokenPair:
    """A tokenised context (at least one token) and its continuation (at least one token)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def truncated(self, max_len: int | None) -> bool:
        """Whether a model of `max_len` input tokens loses tokens on the left (the last token is never an input)."""
        return max_len is not None and len(self.context) + len(self.continuation) > max_len + 1

    def fit(self, max_len: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Input tokens and the targets of its last positions, cut on the left to the model's length."""
        tokens = self.context + self.continuation
        if max_len is not None:
            tokens = tokens[-(max_len + 1) :]
        inputs = tokens[:-1]
        return inputs, self.continuation[-len(inputs) :]


def encode_pairs(encoder: TextEncoder, pairs: Iterable[tuple[str, str]]) -> list[TokenPair]:
    """Tokenise (context, continuation) pairs by the conventions above.

    Raises:
        ValueError: an empty continuation.
    """
    lengths: dict[str, int] = {}  # the choices of a question share their context
    return [_encode_pair(encoder, context, continuation, lengths) for context, continuation in pairs]


def _encode_pair(encoder: TextEncoder, context: str, continuation: str, lengths: dict[str, int]) -> TokenPair:
    if not continuation:
        raise ValueError("continuation: got an empty string, need text to score")
    bare = context.rstrip()
    continuation = context[len(bare) :] + continuation
    if not bare:
        ids = encoder.encode(continuation, special_tokens=False)
        prefix = encoder.prefix_id
        # A continuation that opens with the prefix token itself brings its own context.
        if len(ids) > 1 and ids[0] == prefix:
            return TokenPair((prefix,), tuple(ids[1:]))
        return TokenPair((prefix,), tuple(ids))
    whole = encoder.encode(bare + continuation)
    if len(whole) < 2:
        return TokenPair((encoder.prefix_id,), tuple(whole))
    if bare not in lengths:
        lengths[bare] = len(encoder.encode(bare))
    # Where the end of the context merges into the continuation's first token, at least the last token is scored.
    split = max(1, min(lengths[bare], len(whole) - 1))
    return TokenPair(tuple(whole[:split]), tuple(whole[split:]))


def loglikelihood(
    model: nn.Module,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    batch_tokens: int = 4096,
    *,
    max_len: int | None = None,
    prefix_id: int | None = None,
    dropless: bool = True,
) -> list[tuple[float, bool]]:
    """Log-probability of each continuation given its context, and whether greedy decoding would produce it.

    Args:
        model: maps ids (B, S) to logits (B, S, V), or to an object with `.logits`.
        tokenizer: ours, Hugging Face's, or a `tokenizers.Tokenizer`.
        pairs: (context, continuation) texts; a continuation after a space starts with that space.
        batch_tokens: tokens, padding included, of one batch; has no effect on the result.
        max_len: longest input; None takes the model's own limit. Longer pairs lose tokens on the left (logged).
        prefix_id: token that stands for an empty context; None takes the tokenizer's bos, else eos.
        dropless: mixture-of-experts layers run without capacity, so that a score does not depend on its batch.
    Returns:
        (sum of log-probabilities in nats, every token is the argmax), in the order of `pairs`.
    Raises:
        ValueError: an empty continuation, logits that are not a number.
    """
    encoder = TextEncoder(tokenizer, prefix_id)
    encoded = encode_pairs(encoder, pairs)
    if max_len is not None and max_len < 1:
        raise ValueError(f"max_len: got {max_len}, need at least 1 token")
    max_len = max_len or model_max_len(model)
    cut = sum(pair.truncated(max_len) for pair in encoded)
    if cut:
        logger.warning("%d of %d pairs exceed the model's %s tokens: cut on the left", cut, len(encoded), max_len)
    return score_tokens(model, encoded, batch_tokens, max_len=max_len, dropless=dropless)


def loglikelihood_rolling(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    batch_tokens: int = 4096,
    *,
    max_len: int | None = None,
    prefix_id: int | None = None,
    dropless: bool = True,
) -> list[float]:
    """Log-probability of whole texts, in nats: windows of the model's length, every token predicted once.

    The first token follows the prefix token; the last window starts early enough to be full. Arguments as in
    `loglikelihood`; a model without a limit gets windows of 2048 tokens. An empty text scores 0.
    """
    encoder = TextEncoder(tokenizer, prefix_id)
    window = max_len or model_max_len(model) or ROLLING_WINDOW
    encoded = [rolling_pairs(encoder.encode(text), encoder.prefix_id, window) for text in texts]
    windows = [pair for text in encoded for pair in text]
    scores = iter(score_tokens(model, windows, batch_tokens, max_len=window, dropless=dropless))
    return [math.fsum(next(scores)[0] for _ in part) for part in encoded]


def rolling_pairs(tokens: Sequence[int], prefix_id: int, window: int) -> list[TokenPair]:
    """Disjoint windows over running text: each token is a target once, each input has at most `window` tokens."""
    if window < 1:
        raise ValueError(f"window: got {window}, need at least 1 token")
    sequence = (prefix_id, *tokens)
    pairs = []
    for start in range(0, len(tokens), window):
        end = min(start + window, len(tokens))
        pairs.append(TokenPair(sequence[max(0, end - window) : start + 1], sequence[start + 1 : end + 1]))
    return pairs


def model_max_len(model: nn.Module) -> int | None:
    """Longest input the model states in its configuration (ours or Hugging Face's); None if it states none."""
    for holder in (getattr(model, "cfg", None), getattr(model, "config", None), model):
        for name in ("max_len", "max_position_embeddings", "n_positions"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def score_tokens(
    model: nn.Module,
    pairs: Sequence[TokenPair],
    batch_tokens: int = 4096,
    *,
    max_len: int | None = None,
    dropless: bool = True,
) -> list[tuple[float, bool]]:
    """`loglikelihood` of tokenised pairs. Pairs with equal inputs (one-token choices) share a row."""
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: got {batch_tokens}, need at least 1")
    rows: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for index, pair in enumerate(pairs):
        inputs, targets = pair.fit(max_len)
        rows.setdefault(inputs, []).append((index, targets))
    scores: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    # Not inference_mode: tables that a model caches on its first call would be unusable in later training.
    with scoring_mode(model, dropless), torch.no_grad():
        for batch in _batches(rows, batch_tokens):
            wanted = [(row, index, targets) for row, inputs in enumerate(batch) for index, targets in rows[inputs]]
            scored = _score_batch(model, batch, [(row, t) for row, _, t in wanted], mask_padding=not dropless)
            for (_, index, _), score in zip(wanted, scored, strict=True):
                scores[index] = score
    return scores


def _batches(rows: Iterable[tuple[int, ...]], batch_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Longest first: the largest batch comes first, and rows of one batch have nearly one length."""
    batch: list[tuple[int, ...]] = []
    for row in sorted(rows, key=lambda row: (-len(row), row)):
        if batch and (len(batch) + 1) * len(batch[0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _score_batch(
    model: nn.Module, batch: list[tuple[int, ...]], wanted: list[tuple[int, tuple[int, ...]]], mask_padding: bool
) -> list[tuple[float, bool]]:
    """Scores of `wanted` (row, targets of the row's last positions)."""
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    longest = len(batch[0])
    # Padding on the right: causal positions before it cannot see it, whatever token it is.
    ids_BS = torch.tensor([row + (0,) * (longest - len(row)) for row in batch], device=device)
    lengths = [len(row) for row in batch]
    ragged = min(lengths) < longest
    real_BS = torch.arange(longest, device=device) < torch.tensor(lengths, device=device).unsqueeze(1)
    row_N = [row for row, targets in wanted for _ in targets]
    position_N = [p for row, targets in wanted for p in range(lengths[row] - len(targets), lengths[row])]
    target_N = torch.tensor([t for _, targets in wanted for t in targets], device=device)
    logits = _logits_at(model, ids_BS, real_BS if mask_padding and ragged else None, row_N, position_N)
    logp_N, greedy_N = [], []
    for start, logits_NV in logits:
        target = target_N[start : start + len(logits_NV)]
        if int(target.max()) >= logits_NV.shape[-1]:
            raise ValueError(f"tokenizer: got token {int(target.max())}, the model knows {logits_NV.shape[-1]} tokens")
        greedy_N.append(logits_NV.argmax(-1) == target)
        logp_N.append(logits_NV.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1))
    logp, greedy = torch.cat(logp_N).tolist(), torch.cat(greedy_N).tolist()
    if any(math.isnan(value) for value in logp):
        raise ValueError("model: got logits that are not a number; scores would mean nothing")
    scores, start = [], 0
    for _, targets in wanted:
        end = start + len(targets)
        scores.append((math.fsum(logp[start:end]), all(greedy[start:end])))
        start = end
    return scores


def _logits_at(
    model: nn.Module, ids_BS: Tensor, mask_BS: Tensor | None, row_N: list[int], position_N: list[int]
) -> Iterator[tuple[int, Tensor]]:
    """(start, logits of HEAD_CHUNK positions, at least float32)."""
    head: Callable[[Tensor], Tensor] = nn.Identity()
    # Exactly this class: a sharded one gathers its weights in forward only.
    if type(model) is Decoder:
        # The output layer runs on the scored positions only.
        states, head = model.hidden(ids_BS, mask=mask_BS), model.head
    else:
        states = model(ids_BS) if mask_BS is None else model(ids_BS, mask=mask_BS)
        states = getattr(states, "logits", states)
    states_ND = states[row_N, position_N]
    for start in range(0, len(states_ND), HEAD_CHUNK):
        logits_NV = head(states_ND[start : start + HEAD_CHUNK])
        yield start, logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()


@contextmanager
def scoring_mode(model: nn.Module, without_capacity: bool = True) -> Iterator[None]:
    """Evaluation mode for the block, and no capacity in mixture-of-experts layers; all is put back afterwards.

    With capacity, a text's score would depend on the texts beside it in the batch, and padding would take slots.
    """
    training = {module: module.training for module in model.modules()}
    # What a training step left in the layers (losses it will still collect) outlives the scoring.
    left = [(layer, layer.last) for _, layer in moe_layers(model)]
    model.eval()
    try:
        with no_capacity(model) if without_capacity else nullcontext():
            yield
    finally:
        for layer, last in left:
            layer.last = last
        for module, mode in training.items():
            module.training = mode
