"""The losses against their formulas written out in numpy, their gradients, and what must not change them."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tenfold.align.logprobs import sequence_logprobs
from tenfold.align.samples import Sample, pad
from tenfold.games.batches import GameBatches, TokenRow, collate_rows, with_reference
from tenfold.games.losses import Divergence, Ratio, imitation_loss, spag_loss
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import IGNORED
from tenfold.nn.lora import add_lora

B, T, V = 6, 7, 11


class Table(nn.Module):
    """A model whose logits are what it was given; the first id of a row is its number."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits[ids[:, 0]]


def table(seed: int) -> Table:
    return Table(torch.randn(B, T, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def batch(sft: int = 2, tokens: int | None = None) -> dict[str, Tensor]:
    """B rows with targets of several lengths, the first of them for fine-tuning."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.arange(B).unsqueeze(1).expand(B, T)
    targets = torch.full((B, T), IGNORED)
    for row in range(B):
        length = tokens or 1 + row % 4
        targets[row, 1 : 1 + length] = torch.randint(V, (length,), generator=generator)
    return {
        "ids": ids,
        "targets": targets,
        "mask": torch.ones_like(ids, dtype=torch.bool),
        "rewards": torch.tensor([9.0, 9.0, 0.12, 0.3, 1.0, -0.4], dtype=torch.float64),
        "weights": torch.tensor([1.0, 1.5, 0.5, 2.0, 1.0, 0.75], dtype=torch.float64),
        "sft_mask": torch.arange(B) < sft,
        "roles": torch.tensor([-1, -1, 0, 1, 1, 0]),
    }


def tokens_of(model: Table, data: dict[str, Tensor]) -> list[np.ndarray]:
    """ln p of every row's learned tokens."""
    logits = model.logits.detach().numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = data["targets"].numpy()
    return [np.array([log_p[b, t, targets[b, t]] for t in range(T) if targets[b, t] != IGNORED]) for b in range(B)]


def written_out(
    model: Table, ref: Table, data: dict[str, Tensor], beta: float, alpha: float, clip: float, ratio: str, kl: str
) -> float:
    rl, sft = [], []
    for b, (own, other) in enumerate(zip(tokens_of(model, data), tokens_of(ref, data), strict=True)):
        w, r = float(data["weights"][b]), float(data["rewards"][b])
        if data["sft_mask"][b]:
            sft.append(w * -own.mean())
            continue
        ds = {"mean": [(own - other).mean()], "sequence": [(own - other).sum()], "token": list(own - other)}[ratio]
        terms = []
        for d in ds:
            a = r - beta * d if kl in ("advantage", "detached") else r
            g = -min(a * math.exp(d), a * min(max(math.exp(d), 1 - clip), 1 + clip))
            g += {"penalty": beta * d, "k3": beta * (math.exp(-d) - 1 + d)}.get(kl, 0.0)
            terms.append(g)
        rl.append(w * sum(terms) / len(terms))
    return (sum(rl) / len(rl) if rl else 0.0) + alpha * (sum(sft) / len(sft) if sft else 0.0)


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("kl", get_args(Divergence))
def test_spag_loss_is_its_formula(ratio: Ratio, kl: Divergence) -> None:
    model, ref, data = table(0), table(1), batch()
    value, metrics = spag_loss(model, data, ref, 0.3, 0.7, 0.25, ratio, kl)
    assert float(value) == pytest.approx(written_out(model, ref, data, 0.3, 0.7, 0.25, ratio, kl), abs=1e-10)
    assert 0 < metrics["clip_frac"] <= 1
    assert {name: int(metrics[name]) for name in ("n_rl", "n_sft", "n_role_0", "n_role_1", "weight")} == {
        "n_rl": 4, "n_sft": 2, "n_role_0": 2, "n_role_1": 2, "weight": 6,
    }  # fmt: skip


@pytest.mark.parametrize("ratio", get_args(Ratio))
@pytest.mark.parametrize("kl", ["advantage", "k3"])
def test_spag_gradients_against_finite_differences(ratio: Ratio, kl: Divergence) -> None:
    logits, ref, data = table(0).logits.requires_grad_(), table(1), batch()
    assert torch.autograd.gradcheck(
        lambda x: spag_loss(Table(x), data, ref, ratio=ratio, kl=kl)[0], (logits,), atol=1e-6
    )


def test_imitation_loss_and_gradient() -> None:
    model, ref, data = table(0), table(1), batch()
    value, metrics = imitation_loss(model, data, ref, 0.4)
    own, other = ([row.mean() for row in tokens_of(each, data)] for each in (model, ref))
    terms = [-a + 0.4 * math.exp(a) * (a - b) for a, b in zip(own, other, strict=True)]
    assert float(value) == pytest.approx(float(np.mean(data["weights"].numpy() * terms)), abs=1e-10)
    assert float(metrics["kl_k1"]) == pytest.approx(np.mean(own) - np.mean(other), abs=1e-10)
    logits = model.logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: imitation_loss(Table(x), data, ref)[0], (logits,), atol=1e-6, fast_mode=True
    )


def gradient(value: Tensor, model: Table) -> Tensor:
    (found,) = torch.autograd.grad(value, model.logits, retain_graph=True)
    return found


def mean_logprobs(model: Table, data: dict[str, Tensor]) -> Tensor:
    kept = data["targets"] != IGNORED
    picked = model.logits.log_softmax(-1).gather(-1, data["targets"].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (picked * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize("kl", get_args(Divergence))
def test_coefficients_where_the_model_is_its_reference(kl: Divergence) -> None:
    """∂L/∂ℓ = -w (r - β2) / n_rl under "advantage" and -w r / n_rl under "detached"; SFT rows have -α w / n_sft."""
    model, data = table(0), batch()
    ref = Table(model.logits.clone())
    model.logits.requires_grad_()
    bent = {"advantage": 0.2, "penalty": 0.2}.get(kl, 0.0)
    coefficients = -data["weights"] * torch.where(data["sft_mask"], 0.5 / 2, (data["rewards"] - bent) / 4)
    expected = gradient((coefficients * mean_logprobs(model, data)).sum(), model)
    torch.testing.assert_close(gradient(spag_loss(model, data, ref, kl=kl)[0], model), expected)
    # Reversed where r < β2: the first reward of five utterances is 0.12.
    assert (coefficients[2] > 0) == (kl in ("advantage", "penalty"))


def test_coefficients_of_imitation_at_the_reference() -> None:
    model, data = table(0), batch()
    ref = Table(model.logits.clone())
    model.logits.requires_grad_()
    own = mean_logprobs(model, data)
    coefficients = -data["weights"] * (1 - 0.1 * own.detach().exp()) / B
    torch.testing.assert_close(
        gradient(imitation_loss(model, data, ref)[0], model), gradient((coefficients * own).sum(), model)
    )


def test_token_and_mean_agree_on_single_tokens() -> None:
    model, ref, data = table(0), table(1), batch(tokens=1)
    values = [float(spag_loss(model, data, ref, ratio=ratio)[0]) for ratio in get_args(Ratio)]
    assert values == pytest.approx(values[:1] * 3, abs=1e-12)


@pytest.mark.parametrize("sft", [0, B])
@pytest.mark.parametrize("ratio", get_args(Ratio))
def test_batches_of_one_kind_are_finite(sft: int, ratio: Ratio) -> None:
    model, ref, data = table(0), table(1), batch(sft=sft)
    model.logits.requires_grad_()
    value, metrics = spag_loss(model, data, ref, ratio=ratio)
    assert bool(gradient(value, model).isfinite().all())
    assert all(math.isfinite(float(metric)) for metric in metrics.values())
    assert float(metrics["policy"] if sft else metrics["sft"]) == 0


def test_a_hopeless_fine_tuning_row_does_not_spoil_the_others() -> None:
    model, ref, data = table(0), table(1), batch()
    with torch.no_grad():
        ref.logits[0, 1, data["targets"][0, 1]] = -1e5  # the ratio of this row is infinite
    model.logits.requires_grad_()
    for ratio in get_args(Ratio):
        assert bool(gradient(spag_loss(model, data, ref, ratio=ratio)[0], model).isfinite().all())


# With real decoders.


def decoder(seed: int) -> Decoder:
    cfg = DecoderConfig(40, 16, 2, 2, 1, 8, 24, max_len=96)
    return Decoder(cfg, torch.Generator().manual_seed(seed)).double()


def token_rows(count: int, seed: int = 0) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(count):
        sizes = torch.randint(1, 7, (2,), generator=generator).tolist()
        asked, said = (torch.randint(40, (size,), generator=generator).tolist() for size in sizes)
        reward, weight = torch.rand(2, generator=generator).tolist()
        sft = index % 3 == 0
        found.append(
            TokenRow(Sample.of(asked, said), 0.0 if sft else reward - 0.3, weight + 0.5, sft, -1 if sft else index % 2)
        )
    return found


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str) -> None:
    model, ref, data = decoder(0), decoder(1), collate_rows(token_rows(6))
    wide = dict(data)
    for name, filling in (("ids", 3), ("targets", IGNORED), ("mask", False)):
        rows = data[name]
        padding = torch.full((len(rows), 50), filling, dtype=rows.dtype)
        wide[name] = torch.cat([padding, rows] if side == "left" else [rows, padding], 1)
    if side == "left":  # columns that pad on the left need their rows at the right end
        widths = data["mask"].sum(1)
        for name in ("ids", "targets", "mask"):
            wide[name] = torch.stack([wide[name][i].roll(int(data["mask"].shape[1] - widths[i])) for i in range(6)])
    for loss in (spag_loss, imitation_loss):
        assert loss(model, wide, ref)[0].item() == pytest.approx(loss(model, data, ref)[0].item(), abs=1e-9)


def test_the_form_of_hugging_face_is_read() -> None:
    model, ref, rows = decoder(0), decoder(1), token_rows(6)
    data = collate_rows(rows)
    theirs = {name: data[name] for name in ("rewards", "weights", "sft_mask", "roles")}
    theirs |= {"input_ids": data["ids"], "attention_mask": data["mask"].long()}
    theirs["labels"] = torch.full_like(data["ids"], IGNORED)
    for row, each in enumerate(rows):
        for place, (id, learned) in enumerate(zip(each.sample.ids, each.sample.learned, strict=True)):
            theirs["labels"][row, place] = id if learned else IGNORED
    for loss in (spag_loss, imitation_loss):
        assert loss(model, theirs, ref)[0].item() == pytest.approx(loss(model, data, ref)[0].item(), abs=1e-12)


def test_a_row_without_its_query_is_divided_by_what_is_scored() -> None:
    cut = Sample((4, 5, 6), (True, True, True))  # the first token follows nothing
    whole = Sample((4, 5, 6), (False, True, True))
    model, ref = decoder(0), decoder(1)
    values = [spag_loss(model, collate_rows([TokenRow(sample, 0.5)]), ref)[0].item() for sample in (cut, whole)]
    assert values[0] == values[1]


def test_references_of_every_kind_agree() -> None:
    model, ref, rows = decoder(0), decoder(1), token_rows(8)
    data = collate_rows(rows)
    cached = collate_rows(with_reference(rows, ref))
    for loss in (spag_loss, imitation_loss):
        assert loss(model, cached)[0].item() == pytest.approx(loss(model, data, ref)[0].item(), rel=1e-6)
        with pytest.raises(ValueError, match='reference: got None and a batch without "ref_logprob"'):
            loss(model, data)
    base = spag_loss(model, data, decoder(0))[0].item()
    add_lora(model, 2)
    assert spag_loss(model, data, "adapters off")[0].item() == pytest.approx(base, abs=1e-9)
    with pytest.raises(ValueError, match="ref: got None, need the reference model: ratio='token'"):
        spag_loss(model, cached, ratio="token")


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_micro_batches_add_up_to_the_batch(accumulate: int) -> None:
    model, ref, rows = decoder(0), decoder(1), token_rows(16)
    whole = next(iter(GameBatches(rows, 16)))
    one, _ = spag_loss(model, whole, ref)
    (expected,) = torch.autograd.grad(one, model.embed_tokens.weight)
    parts = [spag_loss(model, part, ref) for part, _ in zip(iter(GameBatches(rows, 16, accumulate)), range(accumulate), strict=False)]  # fmt: skip
    weight = sum(metrics["weight"] for _, metrics in parts)
    total = sum(value * metrics["weight"] for value, metrics in parts) / weight
    assert weight == 16
    assert total.item() == pytest.approx(one.item(), abs=1e-6)
    (found,) = torch.autograd.grad(total, model.embed_tokens.weight)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)
    micro = [spag_loss(model, part, ref, normalise="micro") for part, _ in zip(iter(GameBatches(rows, 16, accumulate)), range(accumulate), strict=False)]  # fmt: skip
    assert {metrics["weight"] for _, metrics in micro} == {1}
    assert abs(sum(value.item() for value, _ in micro) / accumulate - one.item()) > 1e-3  # that is the trap


def test_metrics_say_how_far_the_model_has_moved() -> None:
    model, ref, data = table(0), table(1), batch()
    apart = [a - b for a, b in zip(tokens_of(model, data), tokens_of(ref, data), strict=True)][2:]
    means = np.array([row.mean() for row in apart])
    _, metrics = spag_loss(model, data, ref)
    expected = {
        "kl_k1": means.mean(),
        "kl_k1_sequence": np.mean([row.sum() for row in apart]),
        "kl_k3": np.mean(np.exp(-means) - 1 + means),
        "ratio_mean": np.exp(means).mean(),
        "ratio_max": np.exp(means).max(),
        "frac_negative_adv": np.mean(data["rewards"].numpy()[2:] - 0.2 * means < 0),
    }
    assert {name: float(metrics[name]) for name in expected} == pytest.approx(expected)
    _, by_token = spag_loss(model, data, ref, ratio="token")
    assert float(by_token["kl_k1"]) == pytest.approx(np.concatenate(apart).mean())
    assert float(by_token["kl_k1_sequence"]) == pytest.approx(expected["kl_k1_sequence"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, "beta: got -0.1"),
        ({"alpha": math.nan}, "alpha: got nan"),
        ({"clip": 0}, "clip: got 0"),
        ({"ratio": "sum"}, "ratio: got 'sum', need one of mean, sequence, token"),
        ({"kl": "k2"}, "kl: got 'k2'"),
        ({"normalise": "none"}, "normalise: got 'none'"),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spag_loss(table(0), batch(), table(1), **options)
    if "beta" in options:
        with pytest.raises(ValueError, match=message):
            imitation_loss(table(0), batch(), table(1), **options)


def test_a_reference_of_another_tokenizer_is_refused() -> None:
    other = Decoder(DecoderConfig(41, 16, 2, 2, 1, 8, 24, max_len=96), torch.Generator().manual_seed(1)).double()
    for loss in (spag_loss, imitation_loss):
        with pytest.raises(
            ValueError, match="ref: its vocabulary has 41 tokens, the policy's 40; need the same tokenizer"
        ):
            loss(decoder(0), collate_rows(token_rows(4)), other)


def test_learning_raises_what_was_rewarded() -> None:
    """Some steps on two rows: the rewarded one becomes likelier, the punished one less likely."""
    model, ref = decoder(0), decoder(0)
    rows = [TokenRow(Sample.of([1, 2], [5, 6]), 1.0), TokenRow(Sample.of([3, 4], [7, 8]), -1.0)]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    data = pad([row.sample for row in rows])
    for _ in range(8):
        optimizer.zero_grad()
        spag_loss(model, collate_rows(rows), ref)[0].backward()
        optimizer.step()
    gains = sequence_logprobs(model, data)[0] - sequence_logprobs(ref, data)[0]
    assert gains[0] > 0.1 and gains[1] < -0.1
