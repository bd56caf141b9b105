"""PixArt-α's weights in and out, and dense models turned into mixtures of experts.

Names and layouts are those of diffusers' `PixArtTransformer2DModel`, without the size conditions of its 1024-pixel form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.core.model_folder import write_folder
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.pretrained import CLASS_NAME, check_depth, check_tensors, read_folder
from tenfold.diffusion.transformer import ECDiT
from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import init_generator
from tenfold.nn.moe import MoE, moe_layers

STEM = "diffusion_pytorch_model"
ARCHITECTURE = "PixArtTransformer2DModel"

# Our names and theirs, up to the ending .weight or .bias.
_MODEL_NAMES = {
    "patch_proj": "pos_embed.proj",
    "time_mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "time_mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "modulation": "adaln_single.linear",
    "text_mlp.0": "caption_projection.linear_1",
    "text_mlp.2": "caption_projection.linear_2",
    "final_proj": "proj_out",
}
_BLOCK_NAMES = {
    **{
        f"{ours}.{ours_part}": f"{theirs}.{theirs_part}"
        for ours, theirs in (("attn", "attn1"), ("cross_attn", "attn2"))
        for ours_part, theirs_part in (
            ("q_proj", "to_q"),
            ("k_proj", "to_k"),
            ("v_proj", "to_v"),
            ("o_proj", "to_out.0"),
        )
    },
    "ffn.up_proj": "ff.net.0.proj",
    "ffn.down_proj": "ff.net.2",
}

# Fields that say how experts work and leave the rest of the function alone.
_MOE_FIELDS = (
    *("router", "num_experts", "capacity_factor", "top_k", "capacity_rounding", "token_capacity"),
    *("group_size", "eval_group_size", "score", "renormalize", "route_scale", "router_input", "aux_coef"),
    *("moe_every", "moe_offset", "moe_layers", "objective"),
)


def from_pixart(
    source: Mapping[str, Tensor] | str | Path,
    moe: Mapping[str, Any] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> ECDiT:
    """A model from PixArt-α's weights: the same function, or the same with experts that start as copies.

    The model predicts noise at steps 0..1000 (`objective="ddpm"`); a learned variance stays behind the prediction.

    Args:
        source: a state dict, or a folder that diffusers wrote: the transformer's, or a pipeline's with it inside.
        moe: fields of `ECDiTConfig` that make the blocks sparse, such as {"num_experts": 8, "capacity_factor": 2.0};
            `router` is "ec" unless named, `renormalize` True where experts choose, since the gates of fresh routers are
            near 1/E and would shrink the layer's output. {"objective": "flow"} belongs here too. None keeps the model
            dense.
        config: for a state dict, diffusers' config (`model.config`): the weights do not say how many heads they have.
        noise: standard deviation of what is added to each copy's matrices, relative to that of the matrix.
        generator: where routers and noise are drawn from.
    Returns:
        the model, of the weights' type.
    Raises:
        UserError: a folder or config that is not PixArt's; tensors missing, unexpected or of a wrong shape, the first
            five named.
        ValueError: a state dict without config; fields that `ECDiTConfig` refuses.
    """
    if isinstance(source, (str, Path)):
        folder = Path(source)
        folder = folder / "transformer" if (folder / "transformer").is_dir() else folder
        config, tensors = read_folder(folder, stem=STEM)
        where = str(folder)
    else:
        tensors, where = dict(source), "state_dict"
    if config is None:
        raise ValueError("config: got None, need diffusers' config of the model (a state dict does not name its heads)")
    dense = _read_config(config, where)
    check_depth(dense.num_layers, "transformer_blocks.", tensors, where)
    with torch.device("meta"):
        model = ECDiT(dense)
    wanted = to_pixart(model)
    check_tensors(wanted, tensors, where)
    names = dict(zip(model.state_dict(), wanted, strict=True))
    state = {ours: tensors[theirs] for ours, theirs in names.items()}
    state["patch_proj.weight"] = state["patch_proj.weight"].permute(0, 2, 3, 1).flatten(1).contiguous()
    model.load_state_dict(state, assign=True)
    return model if moe is None else upcycle_model(model, moe, noise=noise, generator=generator)


def upcycle_model(
    model: ECDiT, moe: Mapping[str, Any], *, noise: float = 0.0, generator: torch.Generator | None = None
) -> ECDiT:
    """A copy of a dense model whose experts are copies of the feed-forward layers they replace.

    Args:
        model: its router is "dense".
        moe, noise, generator: as in `from_pixart`.
    Raises:
        ValueError: a model that is not dense; a router without experts; noise below 0; fields that do not fit.
    Source: Komatsuzaki et al. 2022 (Sparse Upcycling, arXiv 2212.05055), Section 2.
    """
    if model.config.router != "dense":
        raise ValueError(f"model: got router {model.config.router!r}, need 'dense'")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise: got {noise}, need 0 or more")
    router = moe.get("router", "ec")
    fields = {"router": router, "renormalize": router != "tc", **moe}
    if unknown := sorted(set(fields) - set(_MOE_FIELDS)):
        raise ValueError(f"moe: got {', '.join(unknown)}, need some of {', '.join(_MOE_FIELDS)}")
    config = replace(model.config, **fields)
    config.moe_config()  # refuses the routers that have no experts
    generator = init_generator(generator)
    sparse = ECDiT(config, generator=generator).to(model.final_table)
    own = sparse.state_dict()
    given = {name: tensor for name, tensor in model.state_dict().items() if name in own}
    sparse.load_state_dict({**own, **given})
    dense_layers = [module for module in model.modules() if isinstance(module, FeedForward)]  # one a block
    for layer, (_, experts) in zip(config.sparse_layers, moe_layers(sparse), strict=True):
        _copy_to_experts(dense_layers[layer], experts, noise, generator)
    return sparse


def to_pixart(model: ECDiT) -> dict[str, Tensor]:
    """The weights of a dense model under diffusers' names, for `PixArtTransformer2DModel.load_state_dict`.

    Under objective "flow" diffusers' model is to be given 1000 · t as its timestep.

    Raises:
        ValueError: a model that the architecture cannot express.
    """
    pixart_config(model.config)
    patch = model.config.patch_size
    out: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "patch_proj.weight":  # a product with rows of patches there is a convolution
            tensor = tensor.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2)
        out[_their_name(name)] = tensor
    return out


def pixart_config(config: ECDiTConfig) -> dict[str, Any]:
    """The config of diffusers' `PixArtTransformer2DModel` for a dense model.

    Raises:
        ValueError: a setting that the architecture does not have, named.
    """
    heads = config.num_heads
    for name, value, need in (
        ("router", config.router, "dense"),
        ("adaln", config.adaln, "single"),
        ("qk_norm", config.qk_norm, False),
        ("num_kv_heads", config.num_kv_heads or heads, heads),
        ("ffn_ratio", config.ffn_ratio, 4),
    ):
        if value != need:
            raise ValueError(f"{name}: got {value!r}, need {need!r} in PixArt's architecture")
    return {
        CLASS_NAME: ARCHITECTURE,
        "num_attention_heads": heads,
        "attention_head_dim": config.dim // heads,
        "in_channels": config.in_channels,
        "out_channels": config.output_channels,
        "num_layers": config.num_layers,
        "cross_attention_dim": config.dim,
        # Diffusers scales positions to its sample size.
        "sample_size": config.base_size * config.patch_size if config.base_size else config.image_size,
        "patch_size": config.patch_size,
        "interpolation_scale": config.interpolation_scale,
        "caption_channels": config.text_dim,
        "use_additional_conditions": False,
    }


def save_pixart(model: ECDiT, folder: str | Path) -> None:
    """Write a dense model as a folder that `PixArtTransformer2DModel.from_pretrained` opens; see `to_pixart`."""
    write_folder(Path(folder), pixart_config(model.config), to_pixart(model), stem=STEM)


def _read_config(config: Mapping[str, Any], where: str) -> ECDiTConfig:
    """Our settings from those of diffusers, whose defaults stand for what is absent."""
    for name, need in ((CLASS_NAME, ARCHITECTURE), ("activation_fn", "gelu-approximate"), ("attention_bias", True)):
        if config.get(name, need) != need:
            raise UserError(f"{where}: {name}: got {config[name]!r}, need {need!r}")
    numbers: dict[str, int] = {}
    for name, default in (
        ("num_attention_heads", 16),
        ("attention_head_dim", 72),
        ("in_channels", 4),
        ("out_channels", 8),
        ("num_layers", 28),
        ("sample_size", 128),
        ("patch_size", 2),
        ("caption_channels", None),
    ):
        value = config.get(name, default)
        if value is None and name == "out_channels":
            value = numbers["in_channels"]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{where}: {name}: got {value!r}, need a whole number, at least 1")
        numbers[name] = value
    scale = config.get("interpolation_scale")
    if scale is None:
        scale = max(numbers["sample_size"] // 64, 1)
    elif not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise UserError(f"{where}: interpolation_scale: got {scale!r}, need a number above 0")
    try:
        return ECDiTConfig(
            image_size=numbers["sample_size"],
            in_channels=numbers["in_channels"],
            out_channels=None if numbers["out_channels"] == numbers["in_channels"] else numbers["out_channels"],
            patch_size=numbers["patch_size"],
            dim=numbers["num_attention_heads"] * numbers["attention_head_dim"],
            num_layers=numbers["num_layers"],
            num_heads=numbers["num_attention_heads"],
            text_dim=numbers["caption_channels"],
            router="dense",
            objective="ddpm",
            interpolation_scale=float(scale),
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _their_name(name: str) -> str:
    """One of our parameters under diffusers' name."""
    if name.startswith("blocks."):
        _, layer, part = name.split(".", 2)
        prefix, names = f"transformer_blocks.{layer}.", _BLOCK_NAMES
    else:
        part, prefix, names = name, "", _MODEL_NAMES
    if part in ("table", "final_table"):
        return f"{prefix}scale_shift_table"
    stem, ending = part.rsplit(".", 1)
    return f"{prefix}{names[stem]}.{ending}"


@torch.no_grad()
def _copy_to_experts(ffn: FeedForward, moe: MoE, noise: float, generator: torch.Generator) -> None:
    for stack, matrix in ((moe.w0, ffn.up_proj.weight), (moe.w2, ffn.down_proj.weight)):
        stack.copy_(matrix.t().expand_as(stack))
        if noise:
            draw = torch.randn(stack.shape, generator=generator, device=generator.device, dtype=stack.dtype)
            stack.add_(draw.to(stack.device), alpha=noise * float(matrix.std()))
    for bias, row in ((moe.b0, ffn.up_proj.bias), (moe.b2, ffn.down_proj.bias)):
        assert bias is not None
        bias.copy_(row.expand_as(bias))
