"""Gradient-boosted trees as plain tensors: grown by scikit-learn, kept and read without it."""

# Shape legend: N rows, F features, M nodes of all trees, R trees

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Of a node: what it asks, where rows go, and what a leaf answers. A leaf is its own child.
DTYPES = {"feature": torch.int64, "threshold": torch.float64, "missing_left": torch.bool, "left": torch.int64,
          "right": torch.int64, "value": torch.float64, "roots": torch.int64, "intercept": torch.float64}  # fmt: skip


class Forest(nn.Module):
    """Trees whose answers add up to a logit.

    Args:
        nodes: tensors by the names of `DTYPES`: of each node [M], indices of the trees' first nodes [R], and a number.
        features: F, what a node may ask for.
    Raises:
        ValueError: tensors that are missing, do not fit, or lead nowhere, as those of a damaged file may.
    """

    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    roots: Tensor
    intercept: Tensor

    def __init__(self, nodes: Mapping[str, Tensor], features: int) -> None:
        super().__init__()
        if nodes.keys() != DTYPES.keys():
            raise ValueError(f"nodes: got {', '.join(sorted(nodes))}, need {', '.join(DTYPES)}")
        count = len(nodes["value"]) if nodes["value"].ndim else 0
        for name, dtype in DTYPES.items():
            tensor = nodes[name]
            shape = {"intercept": (), "roots": (tensor.numel(),)}.get(name, (count,))
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: got {tensor.dtype} {tuple(tensor.shape)}, need {dtype} {shape}")
            self.register_buffer(name, tensor)
        own = torch.arange(count)
        # Children stand behind their parent, or every walk might go in circles; a leaf is both of its own children.
        inside = (self.left < count) & (self.right < count) & (self.feature >= 0) & (self.feature < features)
        leaf, parent = (self.left == own) & (self.right == own), (self.left > own) & (self.right > own)
        if not bool((inside & (leaf | parent)).all()):
            raise ValueError("nodes: got children or features out of range")
        if not bool(((self.roots >= 0) & (self.roots < count)).all()):
            raise ValueError(f"roots: got nodes out of range, need 0..{count - 1}")

    @classmethod
    def of(cls, model: Any, features: int) -> Forest:
        """The trees of a fitted HistGradientBoostingClassifier of two classes."""
        trees = [predictors[0].nodes for predictors in model._predictors]
        roots = np.cumsum([0, *map(len, trees)])
        nodes = np.concatenate(trees)
        leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        offset = np.repeat(roots[:-1], [len(tree) for tree in trees])
        arrays = {
            "feature": np.where(leaf, 0, nodes["feature_idx"]),
            # A split on what is missing has an infinite threshold, and weights of a folder are finite.
            "threshold": np.minimum(nodes["num_threshold"], np.finfo(np.float64).max),
            "missing_left": nodes["missing_go_to_left"].astype(bool),
            "left": np.where(leaf, own, nodes["left"] + offset),
            "right": np.where(leaf, own, nodes["right"] + offset),
            "value": np.where(leaf, nodes["value"], 0.0),
            "roots": roots[:-1],
            "intercept": np.asarray(model._baseline_prediction, dtype=np.float64).reshape(()),
        }
        return cls({name: torch.tensor(array, dtype=DTYPES[name]) for name, array in arrays.items()}, features)

    def first(self, trees: int, shift: float, features: int) -> Forest:
        """The first trees alone, with a number added to every logit."""
        end = int(self.roots[trees]) if trees < len(self.roots) else len(self.value)
        nodes = {name: tensor[:end] for name, tensor in self.named_buffers() if name not in ("roots", "intercept")}
        nodes |= {"roots": self.roots[:trees], "intercept": self.intercept + shift}
        return Forest({name: tensor.clone() for name, tensor in nodes.items()}, features)

    def forward(self, x_NF: Tensor) -> Tensor:
        """Args: float64 (N, F), NaN where missing. Returns: logits (N,)."""
        row = torch.arange(len(x_NF), device=x_NF.device)
        logit = self.intercept.repeat(len(x_NF))
        for root in self.roots:
            node = root.repeat(len(x_NF))
            while True:
                asked = x_NF[row, self.feature[node]]
                leftward = torch.where(asked.isnan(), self.missing_left[node], asked <= self.threshold[node])
                child = torch.where(leftward, self.left[node], self.right[node])
                if torch.equal(child, node):
                    break
                node = child
            logit += self.value[node]
        return logit
