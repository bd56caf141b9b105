"""Distance between two sets of pictures by the features of a small classifier that is trained on one of the worlds here.

It is not the FID of the literature, whose features are Inception's; figures of the two do not compare.
"""

# Shape legend: N pictures, D features, C classes, H W sides

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 64


def frechet_distance(a_ND: NDArray[np.floating], b_ND: NDArray[np.floating]) -> float:
    """Squared Fréchet distance between Gaussians of the mean and covariance of two sets of features.

    Args:
        a_ND, b_ND: features, (N, D) and (M, D), at least 2 each.
    Returns:
        |μ_a − μ_b|² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), at least 0.
    Raises:
        ValueError: other shapes, values that are not finite.
    Source: Heusel et al. 2017, arXiv 1706.08500, Section 2; the formula: Dowson and Landau 1982.
    """
    for name, x in (("a", a_ND), ("b", b_ND)):
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != a_ND.shape[1]:
            raise ValueError(f"{name}: got shape {x.shape}, need (pictures, {a_ND.shape[-1]}), at least 2 pictures")
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: got values that are not finite")
    a, b = a_ND.astype(np.float64), b_ND.astype(np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr (Σ_a Σ_b)^½ by the symmetric S Σ_b S with S = Σ_a^½, which has the same eigenvalues.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    offset = a.mean(0) - b.mean(0)
    return float(max(0.0, offset @ offset + np.trace(cov_a) + np.trace(cov_b) - 2 * cross))


class SmallClassifier(nn.Module):
    """Three convolutions, a mean over places, `FEATURES` features, a yes or no for each class.

    Args:
        classes: C.
        generator: where the weights are drawn from.
    """

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = (3, 24, 48, FEATURES)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in pairwise(widths)
        )
        self.head = nn.Linear(FEATURES, classes)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                bound = (3 / parameter[0].numel()) ** 0.5 * 2**0.5
                with torch.no_grad():
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
            else:
                nn.init.zeros_(parameter)

    def features(self, images: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] to (N, D)."""
        for convolution in self.convolutions:
            images = F.relu(convolution(images))
        return images.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [-1, 1] to logits (N, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def train_classifier(images: Tensor, labels: Tensor, *, steps: int, rows: int = 128, seed: int = 0) -> SmallClassifier:
    """Teach a classifier which classes a picture shows.

    Args:
        images: (N, 3, H, W) in [-1, 1]; training runs on their device.
        labels: (N, C), 1 where a class is shown, else 0.
        steps: optimizer steps.
        rows: pictures a step.
        seed: of weights and order.
    Returns:
        the classifier, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    model = SmallClassifier(labels.shape[1], generator).to(images.device)
    labels = labels.to(images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        picked = torch.randint(len(images), (rows,), generator=generator)
        loss = F.binary_cross_entropy_with_logits(model(images[picked]), labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()
