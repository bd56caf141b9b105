"""A denoiser with the text encoder that is trained beside it, its optimizer, its loss and its batches."""

# Shape legend: B images, c channels, H W sides, L text tokens, D text width

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core.fit import Loss, forward_seed
from tenfold.core.optim import Schedule, adamw, adamw_groups
from tenfold.core.stream import ArrayStream
from tenfold.diffusion import ddpm
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.flow import denoising_loss, interpolate, sample_t, velocity
from tenfold.diffusion.transformer import ECDiT
from tenfold.nn.moe import moe_layers
from tenfold.nn.moe_parallel import parallelize_moe
from tenfold.recipes.ec_dit.config import Training
from tenfold.recipes.ec_dit.pictures import Corpus, Pictures, to_model
from tenfold.text.encoders import WordEncoder

SCHEDULE = ddpm.Schedule()


class TextToImage(nn.Module):
    """What is trained: the denoiser, and the word encoder where the text encoder is not frozen.

    Args:
        denoiser: the diffusion transformer.
        words: reads word ids; None: the model is given states.
    """

    def __init__(self, denoiser: ECDiT, words: WordEncoder | None) -> None:
        super().__init__()
        self.denoiser, self.words = denoiser, words

    @property
    def config(self) -> ECDiTConfig:
        """Of the denoiser."""
        return self.denoiser.config

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        return_routing: bool = False,
        *,
        keep: Tensor | None = None,
    ) -> Any:
        """As `ECDiT.forward`; `text` may also be word ids (B, L)."""
        return self.denoiser(x, t, self.states(text, text_mask), text_mask, return_routing, keep=keep)

    def states(self, text: Tensor, mask: Tensor | None) -> Tensor:
        """States (B, L, D) of a text given as ids or as states."""
        if text.is_floating_point():
            return text
        assert self.words is not None
        return self.words(text, torch.ones_like(text, dtype=torch.bool) if mask is None else mask)


def build(config: ECDiTConfig, corpus: Corpus, seed: int) -> TextToImage:
    """A new model. Rivals of one seed start from the same text encoder."""
    words = None
    if not corpus.frozen_text:
        generator = torch.Generator().manual_seed(seed)
        words = WordEncoder(corpus.captions, config.text_dim, max_length=corpus.text.shape[1], generator=generator)
    return TextToImage(ECDiT(config, generator=torch.Generator().manual_seed(seed)), words)


def parallelize(model: nn.Module, mesh: DeviceMesh) -> None:
    """The plan for `core.mesh.shard`: experts over their axis, whole-batch statistics of the routers."""
    for _, layer in moe_layers(model):
        parallelize_moe(layer, mesh)


def build_optimizer(model: nn.Module, training: Training, lr: float) -> torch.optim.Optimizer:
    """AdamW, or the paper's RMSProp with momentum; its constants are not published, these are ours."""
    if training.optimizer == "rmsprop":
        groups = adamw_groups(model, 0.0)
        return torch.optim.RMSprop(groups, lr, alpha=0.99, momentum=0.9, foreach=True)
    return adamw(model, lr, weight_decay=training.weight_decay, betas=(0.9, 0.99))


def build_schedule(training: Training, steps: int) -> Schedule:
    """Warm-up, then a cosine."""
    return Schedule(min(training.warmup, steps), steps, training.final_fraction)


class NoisyBatches:
    """Endless batches with the times, the noise and the dropped captions that their step uses.

    All is drawn for the whole batch, from the seed and the batch's place in the data: rivals see the same, and so do
    one process and several.

    Args:
        pictures: to draw batches of.
        training: rows a batch, times, share of dropped captions.
        objective: "flow" or "ddpm".
        seed: of order and noise.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
    """

    def __init__(
        self, pictures: Pictures, training: Training, objective: str, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        self.training, self.objective, self.seed, self.rank, self.world = training, objective, seed, rank, world
        columns = {"image": pictures.images, "caption": pictures.caption}
        self._order = ArrayStream(columns, training.rows, seed=seed, rank=rank, world=world)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._order:
            key = forward_seed(self.seed, self._order.epoch, self._order.position, 0)
            yield self._noised(batch, torch.Generator().manual_seed(key))

    def _noised(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        rows, own = (
            self.training.rows,
            slice(*(self.training.rows * r // self.world for r in (self.rank, self.rank + 1))),
        )
        if self.objective == "flow":
            training = self.training
            t = sample_t(rows, t_dist=training.t_dist, mu=training.t_mean, sigma=training.t_std, generator=generator)
        else:
            t = torch.randint(SCHEDULE.steps, (rows,), generator=generator)
        noise = torch.randn(rows, *batch["image"].shape[1:], generator=generator)
        dropped = torch.rand(rows, generator=generator) < self.training.text_dropout
        tokens = torch.randint(2**62, (), generator=generator)
        return {
            "image": batch["image"],
            "caption": batch["caption"].masked_fill(dropped[own], 0),  # row 0 is the empty caption
            "t": t[own],
            "noise": noise[own],
            "key": tokens + self.rank,
        }

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._order.load_state_dict(state)


def make_loss(corpus: Corpus, objective: str, mask_ratio: float) -> Loss:
    """The loss on batches of `NoisyBatches`."""
    tables: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        x0, noise, t = to_model(batch["image"]), batch["noise"], batch["t"]
        if x0.device not in tables:
            tables[x0.device] = corpus.text.to(x0.device), corpus.text_mask.to(x0.device)
        text, mask = (table[batch["caption"]] for table in tables[x0.device])
        if objective == "flow":
            noisy, target = interpolate(x0, noise, t), velocity(x0, noise)
        else:
            noisy, target = SCHEDULE.noised(x0, noise, t), noise
        return denoising_loss(
            model,
            {"text": text, "text_mask": mask},
            noisy,
            t.float(),
            target,
            name=f"{objective}_loss",
            text_dropout=0.0,
            mask_ratio=mask_ratio,
            generator=torch.Generator(x0.device).manual_seed(int(batch["key"])) if mask_ratio else torch.Generator(),
        )

    return loss
