"""Contrastive losses: gold by hand, equal captions, two processes as one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn import functional as F

from tenfold.vision.clip import CLIPModel, TextConfig
from tenfold.vision.contrastive import clip_loss, siglip_loss
from tenfold.vision.vit import ViTConfig


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_by_hand() -> None:
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss, metrics = clip_loss(u, u, math.log(2))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(metrics["accuracy"]) == 1 and int(metrics["weight"]) == 2
    loss, _ = siglip_loss(u, u, 0.0, -1.0)
    assert float(loss) == pytest.approx(math.log(1 + 1) + math.log(1 + math.exp(-1)), abs=1e-6)


def test_equal_captions_are_no_negatives_of_each_other() -> None:
    u, v = unit(3, 0), unit(3, 1)
    v[2] = v[0]
    z = (u @ v.T).masked_fill(torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0]]).bool(), -torch.inf)
    by_hand = F.cross_entropy(z, torch.arange(3)) + F.cross_entropy(z.T, torch.arange(3))
    assert float(clip_loss(u, v, 0.0, dedup=True)[0]) == pytest.approx(float(by_hand / 2), abs=1e-6)
    told = clip_loss(u, v, 0.0, dedup=torch.tensor([5, 9, 5]))[0]
    assert torch.equal(told, clip_loss(u, v, 0.0, dedup=True)[0])
    assert clip_loss(u, v, 0.0)[0] > told
    assert siglip_loss(u, v, 0.0, 0.0)[0] > siglip_loss(u, v, 0.0, 0.0, dedup=True)[0]


def test_the_scale_is_clamped_after_the_step_and_can_come_back(generator: torch.Generator) -> None:
    model = CLIPModel(ViTConfig(image_size=16), TextConfig(20), generator)
    with torch.no_grad():
        model.log_scale.fill_(6.0)
    u, v = model(torch.randn(3, 3, 16, 16), torch.tensor([[4, 2], [5, 2], [2, 6]]))
    model.loss(u, v)[0].backward()
    assert model.log_scale.grad is not None and model.log_scale.grad.abs() > 0
    model.clamp_scale()
    assert float(model.log_scale.detach()) == pytest.approx(math.log(100))
    with pytest.raises(ValueError, match="row 1 has no end token"):
        model.encode_text(torch.tensor([[2, 3], [3, 3]]))


def both(u: torch.Tensor, v: torch.Tensor, gather: bool) -> torch.Tensor:
    return clip_loss(u, v, 1.2, gather=gather, dedup=True)[0] + siglip_loss(u, v, 1.2, -2.0, gather=gather)[0]


def worker(rank: int, where: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{where}/store", rank=rank, world_size=2)
    u, v = (unit(6, seed)[3 * rank : 3 * rank + 3].requires_grad_() for seed in (0, 1))
    loss = both(u, v, gather=True)
    (loss / 2).backward()
    torch.save({"loss": loss.detach(), "u": u.grad, "v": v.grad}, f"{where}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    u, v = unit(6, 0).requires_grad_(), unit(6, 1).requires_grad_()
    loss = both(u, v, gather=False)
    loss.backward()
    assert float(sum(part["loss"] for part in parts) / 2) == pytest.approx(float(loss.detach()), abs=1e-5)
    for name, whole in (("u", u.grad), ("v", v.grad)):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole, atol=1e-5, rtol=1e-5)
