"""Log-probabilities against the plain formula; padding, packing, chunks and peak memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tenfold.align import logprobs
from tenfold.align.logprobs import (
    batches_by_length,
    by_rows,
    frozen_head,
    hidden_states,
    logprobs_of,
    output_head,
    reference_logprobs,
    sequence_logprobs,
    token_logprobs,
)
from tenfold.align.samples import Sample, pad
from tenfold.nn.lora import add_lora, lora_parameters
from tenfold.nn.moe import MoEConfig


def plain(model: nn.Module, batch: dict, temperature: float = 1.0) -> torch.Tensor:
    log_p = (model(batch["ids"]) / temperature).log_softmax(-1)
    kept = batch["targets"] != -100
    chosen = log_p.gather(-1, batch["targets"].where(kept, 0).unsqueeze(-1)).squeeze(-1)
    return chosen.where(kept, 0.0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tied", [True, False])
def test_values_and_gradients_equal_the_plain_formula(  # type: ignore[no-untyped-def]
    decoder, samples, temperature: float, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "vocabulary", lambda model, states: 2**22)  # two rows at a time
    model, batch = decoder(tie_embeddings=tied), pad(samples(5))
    mine, theirs = token_logprobs(model, batch, temperature=temperature), plain(model, batch, temperature)
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
    weight = torch.rand(mine.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parameters = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad((x * weight).sum(), parameters) for x in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    sums, counts = sequence_logprobs(model, batch, temperature=temperature)
    torch.testing.assert_close(sums, theirs.sum(1))
    assert counts.tolist() == [sample.targets for sample in samples(5)]


def test_any_causal_model_will_do(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, batch = decoder(), pad(samples(4))

    class Other(nn.Module):
        """Logits of ids, as Hugging Face's models give them."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: torch.Tensor) -> object:
            return type("Output", (), {"logits": self.inner(ids)})()

    torch.testing.assert_close(token_logprobs(Other(), batch), token_logprobs(model, batch), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="Other needs one sample a row"):
        token_logprobs(Other(), {**batch, "segments": torch.ones_like(batch["ids"])})


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_matter(decoder, samples, side: str) -> None:  # type: ignore[no-untyped-def]
    for moe in (None, MoEConfig(16, 12, num_experts=4, dropless=True)):
        model, batch = decoder(moe=moe), pad(samples(3))
        before = sequence_logprobs(model, batch)[0]
        extra = {"ids": torch.full((3, 50), 7), "targets": torch.full((3, 50), -100), "mask": torch.zeros(3, 50).bool()}
        order = (extra, batch) if side == "left" else (batch, extra)
        wide = {name: torch.cat([part[name] for part in order], dim=1) for name in batch}
        torch.testing.assert_close(sequence_logprobs(model, wide)[0], before, rtol=1e-10, atol=1e-10)


def test_a_batch_without_targets_is_zero_with_zero_gradient(decoder) -> None:  # type: ignore[no-untyped-def]
    model, batch = decoder(), pad([Sample((1, 2, 3), (False,) * 3)])
    sums, counts = sequence_logprobs(model, batch)
    sums.sum().backward()
    assert sums.tolist() == [0]
    assert counts.tolist() == [0]
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_scores_of_many_samples_do_not_depend_on_the_batch(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, rows = decoder(dropout=0.3).train(), samples(9)
    alone = [sequence_logprobs(model.eval(), pad([row]))[0].item() for row in rows]
    model.train()
    assert logprobs_of(model, rows, batch_tokens=20) == pytest.approx(alone, rel=1e-10)
    assert logprobs_of(model, rows) == pytest.approx(alone, rel=1e-10)
    assert model.training
    assert logprobs_of(model, []) == []


def test_batches_by_length_hold_every_sample_once(samples) -> None:  # type: ignore[no-untyped-def]
    rows = samples(30)
    batches = list(batches_by_length(rows, 40))
    assert sorted(i for batch in batches for i in batch) == list(range(30))
    assert all(len(batch) == 1 or len(batch) * len(rows[batch[0]].ids) <= 40 for batch in batches)
    with pytest.raises(ValueError, match="batch_tokens: got 0"):
        list(batches_by_length(rows, 0))


def test_the_reference_is_a_model_or_kept_sums(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, other, batch = decoder(0), decoder(1, dropout=0.5).train(), pad(samples(3))
    expected = sequence_logprobs(other.eval(), batch)[0].detach()
    other.train()
    found = reference_logprobs(model, batch, other)
    assert not found.requires_grad
    assert other.training
    torch.testing.assert_close(found, expected)
    kept = {**batch, "ref_logprob": torch.tensor([-1.0, -2.0, -3.0])}
    assert reference_logprobs(model, kept, None).tolist() == [-1, -2, -3]
    with pytest.raises(ValueError, match='reference: got None and a batch without "ref_logprob"'):
        reference_logprobs(model, batch, None)
    with pytest.raises(ValueError, match="reference: got 'base', need a model or 'adapters off'"):
        reference_logprobs(model, batch, "base")  # type: ignore[arg-type]


def test_the_reference_may_be_the_model_without_its_adapters(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, batch = decoder(), pad(samples(3))
    before = sequence_logprobs(model, batch)[0].detach()
    add_lora(model, 2, dtype=torch.float64)
    with torch.no_grad():
        for weight in lora_parameters(model):
            weight.add_(0.3)
    assert not torch.allclose(sequence_logprobs(model, batch)[0], before)
    torch.testing.assert_close(reference_logprobs(model, batch, "adapters off"), before)


@pytest.mark.parametrize("tied", [True, False])
def test_a_frozen_head_stays_as_it_is(decoder, samples, tied: bool) -> None:  # type: ignore[no-untyped-def]
    model, batch = decoder(tie_embeddings=tied), pad(samples(2))
    states = hidden_states(model, batch).detach()
    head, before = frozen_head(model), output_head(model)(states).detach()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    assert torch.equal(head(states), before)
    assert not torch.equal(output_head(model)(states), before)
    assert isinstance(frozen_head(nn.Linear(2, 2)), nn.Identity)


def test_rows_are_taken_a_few_at_a_time() -> None:
    seen: list[int] = []

    def double(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(x))
        return 2 * x, x + 1

    with torch.no_grad():
        twice, more = by_rows(double, 2**21, torch.arange(10.0))
    assert seen == [4, 4, 2]
    assert twice.tolist() == [2 * i for i in range(10)]
    assert more.tolist() == [i + 1 for i in range(10)]


class Peak(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return out


def test_no_tensor_of_tokens_times_vocabulary_is_made(decoder) -> None:  # type: ignore[no-untyped-def]
    """Forward and backward; the naive way makes 400 x 49 152 numbers several times over."""
    model = decoder(vocab_size=49152, max_len=512).float()
    batch = pad([Sample.of([1], range(400))])
    with Peak() as peak:
        sequence_logprobs(model, batch)[0].sum().backward()
    assert peak.most <= 2**23 < 400 * 49152
