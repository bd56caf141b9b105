"""Pruning of the feed-forward layers' inner units, with a mask learnt beside the weights."""

# Shape legend: L layers, F inner units of a feed-forward layer, D model width

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from tenfold.compress.soft_top_k import soft_top_k
from tenfold.lm.decoder import Decoder
from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import init_generator

PruneMethod = Literal["soft_top_k", "magnitude", "random"]
_SCORE_LR = 10.0  # scores learn ten times as fast as the weights


class FFNPruner(nn.Module):
    """A decoder whose inner units carry a mask: down(λ ⊙ silu(gate x) ⊙ up x).

    Train it in the decoder's place: its forward is the decoder's, its checkpoints hold the scores and the progress.
    In training mode the mask is the annealed one: its size falls from F to `keep` over the first half, its temperature
    from eps[0] to eps[1] geometrically over all of it. In evaluation mode it is `mask()`, so that one sees at any time
    what `finalize` would give.

        pruner = FFNPruner(model, keep=176)
        optimizer = AdaStar([*mup_groups(model), *pruner.score_groups()], lr=0.01)
        fit(TrainState(pruner, optimizer, ...), loss, after_step=lambda state: pruner.anneal(state.step / steps), ...)
        small = pruner.finalize()

    Args:
        model: a dense decoder, not split over a `model` axis, and whole on this process when it is finalized.
        keep: inner units that stay in each layer, 1..F.
        method: what ranks the units. "soft_top_k" learns scores from 0; "magnitude" takes the 2-norm of all weights of
            a unit as they are; "random" takes chance. The mask of the last two is 0 or 1.
        eps: first and last temperature, in units of the scores, > 0.
        generator: of the chances of "random" (see `init_generator`).
    Raises:
        ValueError: keep out of range, a model with experts, an unknown method.
    Source: Gunter et al. 2024, arXiv 2407.21075 (pruning); Lei et al. 2023, arXiv 2304.04947 (soft top-k).
    """

    def __init__(
        self,
        model: Decoder,
        keep: int,
        method: PruneMethod = "soft_top_k",
        *,
        eps: tuple[float, float] = (1.0, 0.03),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        width = model.cfg.ffn_dim
        if model.cfg.moe is not None:
            raise ValueError("model: has experts; pruning takes decoders whose feed-forward layers are all dense")
        if not 1 <= keep <= width:
            raise ValueError(f"keep: got {keep}, need 1..{width} (ffn_dim)")
        if method not in get_args(PruneMethod):
            raise ValueError(f"method: got {method!r}, need one of {', '.join(get_args(PruneMethod))}")
        if not min(eps) > 0:
            raise ValueError(f"eps: got {eps}, need two numbers > 0")
        self.model, self.keep, self.method, self.eps = model, keep, method, eps
        self.progress = 0.0
        self.scores = nn.ParameterList()
        down = [mlp.down_proj for mlp in self._ffns()]
        if method == "soft_top_k":
            self.scores.extend(nn.Parameter(layer.weight.new_zeros(width)) for layer in down)
        if method == "random":
            chance = torch.rand(len(down), width, generator=init_generator(generator))
            self.register_buffer("chance", chance.to(down[0].weight))
        # On the input of `down`, which is the inner activation: the layer's own code stays as it is.
        self._hooks = [layer.register_forward_pre_hook(partial(self._masked, i)) for i, layer in enumerate(down)]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits of the masked decoder; arguments as in `Decoder.forward`."""
        return self.model(*args, **kwargs)

    def anneal(self, progress: float) -> None:
        """Say which share of the training is done, in [0, 1]."""
        if not 0 <= progress <= 1:
            raise ValueError(f"progress: got {progress}, need 0..1")
        self.progress = progress

    @torch.no_grad()
    def mask(self) -> Tensor:
        """The mask that `finalize` builds in, (L, F): λ of the `keep` best units of each layer, 0 for the others."""
        return torch.stack([self._kept(layer) for layer in range(len(self.model.layers))])

    def score_groups(self) -> list[dict[str, Any]]:
        """The scores as a parameter group, with ten times the learning rate and no decay; no group without scores."""
        group = {"params": list(self.scores), "lr_mult": _SCORE_LR, "weight_decay": 0.0}
        return [group] if self.scores else []

    @torch.no_grad()
    def finalize(self) -> Decoder:
        """Cut the pruned units out of the decoder, in place, with λ multiplied into the columns of `down`.

        Its logits are those of the pruner in evaluation mode. The weights are new parameters: build a new optimizer.

        Returns:
            The decoder, with ffn_dim = keep and without hooks.
        """
        if not self._hooks:
            raise ValueError("pruner: got finalized twice; the decoder is pruned already")
        masks = self.mask()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for mlp, mask_F in zip(self._ffns(), masks, strict=True):
            _slice(mlp, mask_F)
        self.model.cfg = dataclasses.replace(self.model.cfg, ffn_dim=self.keep)
        return self.model

    def get_extra_state(self) -> dict[str, float]:
        return {"progress": self.progress}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.anneal(state["progress"])

    def _ffns(self) -> list[FeedForward]:
        return [cast(FeedForward, block.mlp) for block in self.model.layers]

    def _masked(self, layer: int, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        mask_F = self._annealed(layer) if module.training else self._kept(layer)
        return (inputs[0] * mask_F.to(inputs[0].dtype),)

    def _kept(self, layer: int) -> Tensor:
        """λ of the `keep` best units, 0 for the others."""
        return self._annealed(layer) * _hard_top_k(self._ranking(layer), self.keep)

    def _annealed(self, layer: int) -> Tensor:
        """λ at this point of the training."""
        width = self.model.cfg.ffn_dim
        k = width + (self.keep - width) * min(1.0, 2 * self.progress)
        if self.method != "soft_top_k":
            return _hard_top_k(self._ranking(layer), round(k))
        first, last = self.eps
        return soft_top_k(self.scores[layer], k, first * (last / first) ** self.progress)

    def _ranking(self, layer: int) -> Tensor:
        """What the units of a layer are ordered by, (F,)."""
        if self.method == "soft_top_k":
            return self.scores[layer].detach()
        if self.method == "random":
            return self.get_buffer("chance")[layer]
        mlp = self._ffns()[layer]
        assert mlp.gate_proj is not None  # every decoder's is gated
        rows = [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T]
        return torch.cat([part.detach() for part in rows], dim=1).norm(dim=1)


def _hard_top_k(ranking_F: Tensor, k: int) -> Tensor:
    """1 for the k largest, earlier ones first among equals; 0 for the others."""
    best = ranking_F.argsort(descending=True, stable=True)[:k]
    return torch.zeros_like(ranking_F).index_fill_(0, best, 1.0)


def _slice(mlp: FeedForward, mask_F: Tensor) -> None:
    """Keep the units of the mask, in their order."""
    kept = mask_F.nonzero().squeeze(1)
    down_DF = mlp.down_proj.weight * mask_F.to(mlp.down_proj.weight.dtype)
    assert mlp.gate_proj is not None
    for layer, weight in (
        (mlp.gate_proj, mlp.gate_proj.weight[kept]),
        (mlp.up_proj, mlp.up_proj.weight[kept]),
        (mlp.down_proj, down_DF[:, kept]),
    ):
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        layer.out_features, layer.in_features = weight.shape
    mlp.hidden = len(kept)
