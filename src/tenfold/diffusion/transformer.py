"""The diffusion transformer: blocks of self-attention, cross-attention to text, and experts that choose image tokens."""

# Shape legend: B batch, c channels, H x W pixels or latent cells, S image tokens, K tokens kept, L text tokens,
# D model width, Y text width, P = p·p·c_out numbers a patch

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.embed import patchify, plane_positions, time_features, unpatchify
from tenfold.nn.attention import Attention
from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import Linear, draw_normal, init_generator
from tenfold.nn.moe import MoE, Routing, moe_layers

NORM_EPS = 1e-6
TIME_FEATURES = 256


class CrossAttention(Attention):
    """Image tokens attend to text tokens; heads, norms and parameters as in `Attention`."""

    def forward(self, x_BSD: Tensor, text_BLD: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """Args: mask bool (B, 1, 1, L), True where a text token may be seen. Returns: (B, S, D)."""
        q, k = self._queries_and_keys(x_BSD, text_BLD)
        v = self.v_proj(text_BLD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return self.o_proj(self.attend(q, k, v, mask))

    def weights(self, x_BSD: Tensor, text_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """Attention weights, mean over heads: (B, S, L), rows summing to 1. Arguments as in `forward`."""
        q, k = self._queries_and_keys(x_BSD, text_BLD)
        scores = q @ k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1).mT * self.head_dim**-0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1).mean(1)

    def _queries_and_keys(self, x_BSD: Tensor, text_BLD: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.q_proj(x_BSD), self.q_norm, None), self._heads(self.k_proj(text_BLD), self.k_norm, None)


class Block(nn.Module):
    """x + α1·SelfAttn(mod1 LN x), then + CrossAttn without norm or gate, then + α2·F(mod2 LN x); mod LN = (1+γ)·LN + β.

    Args:
        config: of the model.
        layer: number of the block, from 0.
        generator: where the weights are drawn from.
    Source: EC-DIT (arXiv 2410.02098), Eq. 2–4; the order of PixArt-α (arXiv 2310.00426).
    """

    def __init__(self, config: ECDiTConfig, layer: int, generator: torch.Generator) -> None:
        super().__init__()
        self.unmodulated = config.router_input == "unmodulated"
        heads = (config.num_heads, config.num_kv_heads)
        options: dict[str, Any] = {"qk_norm": config.qk_norm, "norm_eps": NORM_EPS, "bias": True, "causal": False}
        self.attn = Attention(config.dim, *heads, **options, generator=generator)
        self.cross_attn = CrossAttention(config.dim, *heads, **options, generator=generator)
        self.ffn: MoE | FeedForward
        if layer in config.sparse_layers:
            self.ffn = MoE(config.moe_config(), generator=generator)
        else:
            hidden = config.hidden(layer)
            self.ffn = FeedForward(config.dim, hidden, activation="gelu_tanh", bias=True, generator=generator)
        # One of the two: what is added to the model's own modulation, or the projection of the time.
        single = config.adaln == "single"
        self.table = nn.Parameter(torch.empty(6, config.dim)) if single else None
        self.modulation = None if single else Linear(config.dim, 6 * config.dim, bias=True, generator=generator)

    def forward(self, x_BSD: Tensor, time: Tensor, text_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """One block.

        Args:
            x_BSD: image tokens.
            time: adaln "single": the model's modulation (B, 6, D); "block": SiLU of the time's embedding, (B, D).
            text_BLD: projected text.
            mask: bool (B, 1, 1, L), or None for all True.
        Returns:
            (B, S, D).
        """
        if self.modulation is None:
            assert self.table is not None
            six = self.table + time
        else:
            six = self.modulation(time).unflatten(-1, (6, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = six.unsqueeze(2).unbind(1)  # (B, 1, D) each
        x_BSD = torch.addcmul(x_BSD, gate1, self.attn(torch.addcmul(shift1, layer_norm(x_BSD), 1 + scale1)))
        x_BSD = x_BSD + self.cross_attn(x_BSD, text_BLD, mask)
        normed = layer_norm(x_BSD)
        modulated = torch.addcmul(shift2, normed, 1 + scale2)
        if isinstance(self.ffn, MoE):
            y_BSD = self.ffn(modulated, router_input=normed if self.unmodulated else None)
        else:
            y_BSD = self.ffn(modulated)
        return torch.addcmul(x_BSD, gate2, y_BSD)


class ECDiT(nn.Module):
    """Predicts the velocity (or the noise) of noisy images, given a text.

    Args:
        config: shape and routing.
        generator: where the weights are drawn from (see `init_generator`). Linear layers and each expert by itself
            Xavier uniform, biases 0; tables N(0, 1/D); the time's layers and routers N(0, 0.02²); the output of
            cross-attention, the last layer and the modulation of adaln "block" 0, so that a new model answers 0.
    """

    def __init__(self, config: ECDiTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        generator = init_generator(generator)
        self.config = config
        dim, patch = config.dim, config.patch_size**2

        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(inputs, outputs, bias=True, generator=generator)

        self.patch_proj = linear(patch * config.in_channels, dim)
        self.time_mlp = nn.Sequential(linear(TIME_FEATURES, dim), nn.SiLU(), linear(dim, dim))
        self.modulation = linear(dim, 6 * dim) if config.adaln == "single" else None
        self.text_mlp = nn.Sequential(linear(config.text_dim, dim), nn.GELU(approximate="tanh"), linear(dim, dim))
        self.blocks = nn.ModuleList(Block(config, layer, generator) for layer in range(config.num_layers))
        self.final_table = nn.Parameter(torch.empty(2, dim))
        self.final_proj = linear(dim, patch * config.output_channels)
        _draw(self, generator)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        return_routing: bool = False,
        *,
        keep: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, list[Routing]]:
        """Predict.

        Args:
            x: noisy images (B, c, H, W) in the model's space; sides are multiples of the patch's.
            t: times (B,): in [0, 1] under objective "flow", steps in 0..1000 under "ddpm".
            text: states of the text encoder (B, L, Y), at least one a caption.
            text_mask: bool (B, L), False at padding; None is all True.
            return_routing: also return what each sparse layer decided, in their order.
            keep: int64 (B, K), image tokens to keep, each named once: masked training. The others are dropped behind the
                position embedding, so that no expert sees them.
            encoder_hidden_states: another name of `text`.
        Returns:
            (B, c_out, H, W); with `keep` the patches (B, K, P) in the order of `patchify`. With `return_routing` a
            pair of that and the list of routings.
        Raises:
            ValueError: shapes or values that do not fit; values are read on the CPU only, an accelerator stops with
                torch's own message.
        """
        config = self.config
        if (text is None) == (encoder_hidden_states is None):
            raise ValueError("text, encoder_hidden_states: need exactly one of them")
        text = encoder_hidden_states if text is None else text
        assert text is not None
        self._check(x, t, text, text_mask)
        grid = (x.shape[2] // config.patch_size, x.shape[3] // config.patch_size)
        time_BD = self.embed_time(t)
        time = F.silu(time_BD)
        if self.modulation is not None:
            time = self.modulation(time).unflatten(-1, (6, -1))
        text_BLD = self.text_mlp(text)
        mask = None if text_mask is None else text_mask[:, None, None]
        x_BSD = self._embed(x, grid, keep)
        for block in self.blocks:
            x_BSD = block(x_BSD, time, text_BLD, mask)
        shift, scale = (self.final_table + time_BD[:, None]).unsqueeze(2).unbind(1)
        y_BSP = self.final_proj(torch.addcmul(shift, layer_norm(x_BSD), 1 + scale))
        y = unpatchify(y_BSP, config.patch_size, grid) if keep is None else y_BSP
        return (y, self._routings()) if return_routing else y

    def embed_time(self, t: Tensor) -> Tensor:
        """(B, D) embedding of times (B,), as `forward` takes them."""
        steps = 1000 * t if self.config.objective == "flow" else t
        return self.time_mlp(time_features(steps, TIME_FEATURES).to(self.final_table.dtype))

    @torch.no_grad()
    def cross_attention_maps(self, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """How much each image token attends to each word, by block, mean over heads.

        Args:
            x, t, text, text_mask: as in `forward`.
        Returns:
            (num_layers, B, S, L), in [0, 1], summing to 1 over L; 0 at padding.
        """
        maps: list[Tensor] = []

        def record(module: CrossAttention, inputs: tuple[Tensor, Tensor, Tensor | None]) -> None:
            maps.append(module.weights(*inputs))

        layers = [module for module in self.modules() if isinstance(module, CrossAttention)]
        hooks = [layer.register_forward_pre_hook(record) for layer in layers]
        try:
            self(x, t, text, text_mask)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(maps)

    def train(self, mode: bool = True) -> ECDiT:
        """Switch between training and evaluation, each with its own group size."""
        super().train(mode)
        config = self.config
        size = config.group_size if mode or config.eval_group_size is None else config.eval_group_size
        for _, layer in moe_layers(self):
            layer.config = replace(layer.config, group_size=size)
        return self

    @classmethod
    def from_pixart(
        cls,
        source: Mapping[str, Tensor] | str | Path,
        moe: Mapping[str, Any] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> ECDiT:
        """A model from PixArt-α's weights, dense or with experts; see `pixart.from_pixart`."""
        from tenfold.diffusion.pixart import from_pixart

        return from_pixart(source, moe, config=config, noise=noise, generator=generator)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype | None = None) -> ECDiT:
        """Read a folder that `save_pretrained` wrote; see `pretrained.read_model`."""
        from tenfold.diffusion.pretrained import read_model

        return read_model(Path(folder), dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; see `pretrained.write_model`."""
        from tenfold.diffusion.pretrained import write_model

        write_model(self, Path(folder))

    def _embed(self, x: Tensor, grid: tuple[int, int], keep: Tensor | None) -> Tensor:
        """Patch tokens with their positions, (B, S, D) or (B, K, D)."""
        config = self.config
        tokens = patchify(x, config.patch_size)
        positions = plane_positions(
            grid,
            config.dim,
            base_size=config.base_size or config.image_size // config.patch_size,
            scale=config.interpolation_scale,
            device=x.device,
            dtype=self.final_table.dtype,
        )
        if keep is None:
            return self.patch_proj(tokens) + positions
        _check_keep(keep, tokens.shape[0], tokens.shape[1])
        return self.patch_proj(tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[2]))) + positions[keep]

    def _routings(self) -> list[Routing]:
        return [layer.last.routing for _, layer in moe_layers(self) if layer.last is not None]

    def _check(self, x: Tensor, t: Tensor, text: Tensor, text_mask: Tensor | None) -> None:
        config = self.config
        if x.ndim != 4 or x.shape[1] != config.in_channels:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, need (batch, {config.in_channels}, height, width) (in_channels)"
            )
        batch = x.shape[0]
        if t.shape != (batch,):
            raise ValueError(f"t: got shape {tuple(t.shape)}, need ({batch},), one time an image")
        if text.ndim != 3 or text.shape[0] != batch or not text.shape[1] or text.shape[2] != config.text_dim:
            raise ValueError(
                f"text: got shape {tuple(text.shape)}, need ({batch}, tokens, {config.text_dim}) (text_dim)"
            )
        limit = 1 if config.objective == "flow" else 1000
        _require((t >= 0) & (t <= limit), f"t: got a time outside [0, {limit}], objective {config.objective!r}")
        if text_mask is not None:
            if text_mask.shape != text.shape[:2] or text_mask.dtype != torch.bool:
                need = f"need bool {tuple(text.shape[:2])}"
                raise ValueError(f"text_mask: got {text_mask.dtype} {tuple(text_mask.shape)}, {need}")
            _require(text_mask.any(-1), "text_mask: got a row without True, need at least one text token a caption")


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis, without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def _require(fine: Tensor, message: str) -> None:
    """ValueError unless all is True. An accelerator is not waited for: it stops later, with torch's own message."""
    if torch.compiler.is_compiling() or fine.is_meta:
        return
    if not fine.is_cpu:
        torch._assert_async(fine.all(), message)
    elif not bool(fine.all()):
        raise ValueError(message)


def _check_keep(keep: Tensor, batch: int, tokens: int) -> None:
    if keep.ndim != 2 or keep.shape[0] != batch or not keep.shape[1] or keep.dtype != torch.int64:
        raise ValueError(f"keep: got {keep.dtype} {tuple(keep.shape)}, need int64 ({batch}, tokens kept)")
    _require((keep >= 0) & (keep < tokens), f"keep: got a token outside 0..{tokens - 1}")


def _draw(model: ECDiT, generator: torch.Generator) -> None:
    """Initial weights, as `ECDiT` describes them."""
    for module in model.modules():
        if isinstance(module, Linear):
            _xavier(module.weight, sum(module.weight.shape), generator)
        elif isinstance(module, MoE):  # its router is drawn already
            for stack in (module.w0, module.w2):
                _xavier(stack, sum(stack.shape[1:]), generator)
    zero = [model.final_proj]
    small = [module for module in model.time_mlp if isinstance(module, Linear)]
    tables = [model.final_table]
    if model.modulation is not None:
        small.append(model.modulation)
    for module in model.modules():
        if isinstance(module, Block):
            zero.append(module.cross_attn.o_proj)
            if module.table is not None:
                tables.append(module.table)
            if module.modulation is not None:
                zero.append(module.modulation)
    for layer in zero:
        nn.init.zeros_(layer.weight)
    for layer in small:
        draw_normal(layer.weight, 0.02, generator)
    for table in tables:
        draw_normal(table, model.config.dim**-0.5, generator)


@torch.no_grad()
def _xavier(weight: Tensor, fans: int, generator: torch.Generator) -> None:
    """Uniform in ±sqrt(6 / (inputs + outputs)), drawn on the generator's device."""
    if not weight.is_meta:
        draw = torch.rand(weight.shape, generator=generator, device=generator.device, dtype=weight.dtype)
        weight.copy_(draw.sub_(0.5).mul_(2 * (6 / fans) ** 0.5))
