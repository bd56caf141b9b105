"""Distillation losses against their formulas, and the labels kept on disk."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tenfold.compress.distill import CachedLabels, distill_kl_loss, distill_top1_loss, kl_divergence, top1_labels
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import adamw
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.nn.moe import MoEConfig


def model(seed: int, vocab: int = 40, dim: int = 16, **fields: Any) -> Decoder:
    cfg = DecoderConfig(vocab, dim, 2, 2, 1, 8, 24, max_len=16, **fields)
    return Decoder(cfg, torch.Generator().manual_seed(seed)).double()


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    rows = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(seed))
    targets = rows[:, 1:].clone()
    targets[0, :5] = -100
    return {"ids": rows[:, :-1], "targets": targets}


STUDENT, TEACHER, ROWS = model(0), model(1, dim=24), batch()
KEPT = ROWS["targets"] != -100


def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(STUDENT.parameters())))


def test_weight_0_is_cross_entropy_and_asks_no_teacher() -> None:
    total, metrics = distill_top1_loss(teacher_weight=0.0)(STUDENT, ROWS)
    expected = F.cross_entropy(STUDENT(ROWS["ids"])[KEPT], ROWS["targets"][KEPT])
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    assert metrics["weight"] == 19 and metrics["ce"] == total
    plain, _ = lm_loss(z_loss=1e-3)(STUDENT, ROWS)
    with_z, _ = distill_top1_loss(TEACHER, 0.0, z_loss=1e-3)(STUDENT, ROWS)
    torch.testing.assert_close(with_z, plain, rtol=1e-12, atol=0)


def test_its_own_teacher_with_weight_1_gives_the_best_probability() -> None:
    total, _ = distill_top1_loss(STUDENT, 1.0)(STUDENT, ROWS)
    best = STUDENT(ROWS["ids"]).log_softmax(-1).max(-1).values[KEPT]
    torch.testing.assert_close(total, -best.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_value_and_gradient_of_the_mix(z_loss: float) -> None:
    total, metrics = distill_top1_loss(TEACHER, z_loss=z_loss)(STUDENT, ROWS)
    logits = STUDENT(ROWS["ids"])[KEPT]
    labels = TEACHER(ROWS["ids"])[KEPT].argmax(-1)
    ce, taught = F.cross_entropy(logits, ROWS["targets"][KEPT]), F.cross_entropy(logits, labels)
    z = logits.logsumexp(-1).square().mean()
    expected = 0.1 * ce + 0.9 * taught + z_loss * z
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(total), gradients(expected), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close([metrics["ce"], metrics["taught"]], [ce.detach(), taught.detach()])
    assert ("z" in metrics) == bool(z_loss) and not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_and_gradient_of_soft_targets(temperature: float) -> None:
    total, metrics = distill_kl_loss(TEACHER, 0.7, temperature=temperature)(STUDENT, ROWS)
    logits = STUDENT(ROWS["ids"])[KEPT]
    log_q = (logits / temperature).log_softmax(-1)
    log_p = (TEACHER(ROWS["ids"]).detach()[KEPT] / temperature).log_softmax(-1)
    kl = temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    expected = 0.3 * F.cross_entropy(logits, ROWS["targets"][KEPT]) + 0.7 * kl
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(total), gradients(expected), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(metrics["taught"], kl.detach())


def test_soft_targets_of_itself_cost_nothing() -> None:
    total, _ = distill_kl_loss(STUDENT, 1.0, temperature=3.0)(STUDENT, ROWS)
    assert total.item() == pytest.approx(0, abs=1e-14)
    assert max(g.abs().max() for g in gradients(total)) < 1e-14


def test_divergence_in_parts_equals_the_whole(generator: torch.Generator) -> None:
    student = torch.randn(7, 90_000, generator=generator).requires_grad_()  # two rows at a time
    teacher = torch.randn(7, 90_000, generator=generator)
    kl = kl_divergence(student, teacher)
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(kl, expected)
    up = torch.randn(7, generator=generator)
    first, second = (torch.autograd.grad(value, student, up)[0] for value in (kl, expected))
    torch.testing.assert_close(first, second)


def test_bfloat16_logits_are_reduced_in_float32(generator: torch.Generator) -> None:
    student, teacher = torch.randn(2, 5, 300, generator=generator).bfloat16()
    assert kl_divergence(student, teacher).dtype == torch.float32
    total, _ = distill_top1_loss(TEACHER)(copy.deepcopy(STUDENT).bfloat16(), ROWS)
    assert total.dtype == torch.float32


def test_the_teacher_is_left_as_it_was() -> None:
    teacher = model(1, dropout=0.5)
    teacher.layers[0].eval()
    modes = [module.training for module in teacher.modules()]
    first, _ = distill_top1_loss(teacher)(STUDENT, ROWS)
    second, _ = distill_top1_loss(teacher)(STUDENT, ROWS)
    assert first == second  # no dropout
    assert [module.training for module in teacher.modules()] == modes
    (first + distill_kl_loss(teacher)(STUDENT, ROWS)[0]).backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    STUDENT.zero_grad()


def test_weighted_micro_batches_add_up_to_the_whole() -> None:
    loss = distill_top1_loss(TEACHER, z_loss=1e-2)
    whole, metrics = loss(STUDENT, ROWS)
    parts = [loss(STUDENT, {name: value[i : i + 1] for name, value in ROWS.items()}) for i in range(3)]
    joined = sum(value * part["weight"] for value, part in parts) / metrics["weight"]
    torch.testing.assert_close(joined, whole)


@pytest.mark.parametrize("loss", [distill_top1_loss(TEACHER), distill_kl_loss(TEACHER)])
def test_a_batch_without_targets_is_zero_with_zero_gradient(loss: Any) -> None:
    total, metrics = loss(STUDENT, {**ROWS, "targets": torch.full_like(ROWS["targets"], -100)})
    assert total.item() == metrics["weight"] == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(total))


def test_packed_rows_reach_the_teacher_as_they_are() -> None:
    segments = torch.tensor([[1] * 3 + [2] * 5] * 3)
    total, _ = distill_top1_loss(TEACHER, 1.0)(STUDENT, {**ROWS, "segments": segments})
    labels = TEACHER(ROWS["ids"], segments=segments)[KEPT].argmax(-1)
    expected = F.cross_entropy(STUDENT(ROWS["ids"], segments=segments)[KEPT], labels)
    torch.testing.assert_close(total, expected)


def test_experts_of_the_student_keep_their_balance() -> None:
    sparse = model(0, moe=MoEConfig(16, 12, num_experts=4))
    # The student as its own teacher: the teacher's pass must not take the place of the student's in the balance.
    total, metrics = distill_top1_loss(sparse, 0.5)(sparse, ROWS)
    _, expected = lm_loss(z_loss=0.0)(sparse, ROWS)
    assert metrics["aux"] == expected["aux"] > 0
    torch.testing.assert_close(total.detach(), 0.5 * (metrics["ce"] + metrics["taught"]) + metrics["aux"])


def test_labels_come_with_the_batch_or_from_the_teacher() -> None:
    labelled = {**ROWS, "teacher_top1": top1_labels(TEACHER, ROWS)}
    assert distill_top1_loss(teacher_weight=0.9)(STUDENT, labelled)[0] == distill_top1_loss(TEACHER)(STUDENT, ROWS)[0]


def test_a_student_learns_its_teachers_choice() -> None:
    student = copy.deepcopy(STUDENT)
    state = TrainState(student, adamw(student, 0.02))
    agreement = []
    for _ in range(25):
        train_step(state, distill_top1_loss(TEACHER, 1.0), [ROWS])
        agreement.append((top1_labels(student, ROWS) == top1_labels(TEACHER, ROWS))[KEPT].double().mean().item())
    assert agreement[0] < 0.5 and agreement[-1] == 1


# Labels on disk


def test_labels_are_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = copy.deepcopy(TEACHER)
    loss = distill_top1_loss(teacher, cache=tmp_path / "labels")
    first = loss(STUDENT, ROWS)[0]
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(Decoder, "forward", refuse_for(teacher, Decoder.forward))
    again = distill_top1_loss(teacher, cache=tmp_path / "labels")
    assert loss(STUDENT, ROWS)[0] == again(STUDENT, ROWS)[0] == first
    with pytest.raises(AssertionError, match="asked"):
        loss(STUDENT, batch(seed=5))


@pytest.mark.parametrize("change", ["ids", "positions", "segments", "weights", "shape"])
def test_whatever_changes_the_labels_has_a_file_of_its_own(change: str, tmp_path: Path) -> None:
    teacher, rows = copy.deepcopy(TEACHER), dict(ROWS)
    CachedLabels(teacher, tmp_path)(rows)
    if change == "ids":
        rows["ids"] = rows["ids"].flip(0)
    elif change in ("positions", "segments"):
        rows[change] = torch.ones_like(rows["ids"]).cumsum(1)
    elif change == "weights":
        with torch.no_grad():
            teacher.norm.weight[3] += 1e-9
    else:
        teacher = Decoder.from_pretrained(saved(teacher, tmp_path / "model"), rope_base=1e4)
    labels = CachedLabels(teacher, tmp_path)(rows)
    assert len(files(tmp_path)) == 2
    assert torch.equal(labels, top1_labels(teacher, rows))


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    labels = CachedLabels(TEACHER, tmp_path)
    expected = labels(ROWS)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert torch.equal(labels(ROWS), expected)
    assert file.read_bytes() == whole


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.bin"))


def saved(teacher: Decoder, folder: Path) -> Path:
    teacher.save_pretrained(folder)
    return folder


def refuse_for(teacher: Decoder, forward: Any) -> Any:
    def checked(self: Decoder, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert self is not teacher, "the teacher was asked"
        return forward(self, *args, **kwargs)

    return checked


@pytest.mark.parametrize("vocab", [20, 41])
@pytest.mark.parametrize("make", [distill_top1_loss, distill_kl_loss])
def test_a_teacher_with_another_vocabulary_is_refused(make: Any, vocab: int) -> None:
    with pytest.raises(ValueError, match=f"teacher: got a vocabulary of {vocab}, need 40 as the student has"):
        make(model(2, vocab=vocab))(STUDENT, ROWS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill_top1_loss(TEACHER, 1.1), "teacher_weight: got 1.1, need 0..1"),
        (lambda: distill_top1_loss(TEACHER, z_loss=-1.0), "z_loss: got -1.0"),
        (lambda: distill_top1_loss(cache=Path("x")), "cache: got a folder without a teacher"),
        (lambda: distill_kl_loss(TEACHER, temperature=0.0), "temperature: got 0.0, need > 0"),
        (lambda: distill_top1_loss()(STUDENT, ROWS), "batch: no teacher_top1; add the teacher's labels"),
        (lambda: distill_top1_loss(TEACHER)(STUDENT, {"ids": ROWS["ids"]}), "batch: no targets; got ids"),
    ],
)
def test_refuses(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
