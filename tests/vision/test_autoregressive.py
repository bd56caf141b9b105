"""AIM's objective: what a patch sees, what it is held against, gold by hand, and that it learns."""

from __future__ import annotations

import pytest
import torch

from tenfold.vision.autoregressive import AIMModel, aim_loss, draw_prefix, patch_targets, prefix_mask
from tenfold.vision.vit import ViTConfig

CONFIG = ViTConfig(image_size=12, patch_size=4, dim=16, layers=2, heads=2, mlp=24)


def test_mask_by_hand() -> None:
    first, second = prefix_mask(torch.tensor([1, 3]), 3)[:, 0].tolist()
    assert first == [[True, False, False], [True, True, False], [True, True, True]]
    assert second == [[True, True, True]] * 3
    # The class token, first, sees the prefix alone: whoever sees it learns nothing of later patches.
    assert prefix_mask(torch.tensor([1]), 3, class_token=True)[0, 0].tolist() == [
        [True, True, False, False], [True, True, False, False], [True, True, True, False], [True, True, True, True],
    ]  # fmt: skip
    for wrong in (torch.tensor([4]), torch.tensor([-1]), torch.tensor(2)):
        with pytest.raises(ValueError, match=r"need one of 0\.\.3"):
            prefix_mask(wrong, 3)


def test_targets_are_patches_in_raster_order_each_normalised() -> None:
    pixels = torch.arange(3 * 4 * 6.0).view(1, 3, 4, 6)
    targets = patch_targets(pixels, 2)
    assert targets.shape == (1, 6, 12)
    torch.testing.assert_close(targets.mean(-1), torch.zeros(1, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.var(-1, unbiased=False), torch.ones(1, 6), atol=1e-4, rtol=0)
    patch = pixels[0, :, 2:4, 4:6].flatten()  # row 1, column 2
    torch.testing.assert_close(targets[0, 5], (patch - patch.mean()) / patch.std(unbiased=False))
    torch.testing.assert_close(patch_targets(3 * pixels + 7, 2), targets, atol=1e-4, rtol=0)
    assert torch.equal(patch_targets(torch.ones(1, 3, 4, 4), 2), torch.zeros(1, 4, 12)), "a plain patch is no nan"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_no_patch_sees_what_it_foretells(kind: str, generator: torch.Generator) -> None:
    model = AIMModel(ViTConfig(image_size=12, patch_size=4, dim=16, layers=2, heads=2, mlp=24, kind=kind), 1, generator)  # type: ignore[arg-type]
    pixels, prefix = torch.randn(1, 3, 12, 12, generator=generator), torch.tensor([4])
    told = model(pixels, prefix)
    for patch in range(9):
        changed = pixels.clone()
        row, column = divmod(patch, 3)
        changed[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
        differs = (model(changed, prefix) - told).abs().amax(-1)[0] > 1e-7
        # In the prefix every place sees the change; behind it those from the changed patch on.
        assert differs.tolist() == ([True] * 9 if patch < 4 else [place >= patch for place in range(9)]), patch


def test_loss_by_hand_and_its_weight(generator: torch.Generator) -> None:
    model = AIMModel(CONFIG, generator=generator)
    pixels, prefix = torch.randn(2, 3, 12, 12, generator=generator), torch.tensor([8, 3])
    told, targets = model(pixels, prefix), patch_targets(pixels, 4)
    errors = [(told[0, 7] - targets[0, 8]).square().mean()]
    errors += [(told[1, k - 1] - targets[1, k]).square().mean() for k in range(3, 9)]
    loss, metrics = aim_loss(model, pixels, prefix)
    assert int(metrics["weight"]) == 7
    torch.testing.assert_close(loss, torch.stack(errors).mean())
    # Pictures by themselves, weighted by their patches, come to the same.
    parts = [aim_loss(model, pixels[i : i + 1], prefix[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(sum(part * told["weight"] for part, told in parts) / 7, loss)


def test_grey_costs_one(generator: torch.Generator) -> None:
    model = AIMModel(CONFIG, generator=generator)
    with torch.no_grad():
        model.out.weight.zero_(), model.out.bias.zero_()
    loss, _ = aim_loss(model, torch.randn(4, 3, 12, 12, generator=generator), torch.tensor([1, 2, 5, 8]))
    assert float(loss.detach()) == pytest.approx(1, abs=1e-4)


def test_prefixes_are_uniform_from_one_to_all_but_one(generator: torch.Generator) -> None:
    drawn = draw_prefix(4000, 5, generator)
    counts = torch.bincount(drawn, minlength=5).tolist()
    assert counts[0] == 0 and len(counts) == 5 and all(850 < count < 1150 for count in counts[1:])


def test_it_learns_a_pattern_that_goes_on(generator: torch.Generator) -> None:
    """Stripes whose place differs from picture to picture: the next patch follows from those before."""
    model = AIMModel(CONFIG, 1, generator)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        shift = torch.randint(0, 4, (32, 1, 1, 1), generator=generator)
        columns = (torch.arange(12).view(1, 1, 1, 12) + shift) % 4 < 2
        pixels = columns.float().expand(32, 3, 12, 12).contiguous()
        loss, _ = aim_loss(model, pixels, draw_prefix(32, 9, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9 and losses[-1] < 0.1


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="depth: got -1"):
        AIMModel(CONFIG, -1)
    with pytest.raises(ValueError, match="patches: got 1"):
        AIMModel(ViTConfig(image_size=8, patch_size=8))
