"""Weights of CLIP and SigLIP as transformers and open_clip write them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, listed, read_tensors
from tenfold.vision.clip import CLIPModel, TextConfig
from tenfold.vision.positions import interpolate_pos_embed
from tenfold.vision.vit import Kind, ViT, ViTConfig, position_fit

State = dict[str, Tensor]

# Rules of renaming, tried in order on every name of transformers after its tower's prefix is cut off.
_BLOCK = (
    (r"encoder\.layers\.", "layers."),
    (r"layer_norm([12])\.", r"norm\1."),
    (r"self_attn\.out_proj", "attn.o_proj"),
    (r"self_attn\.", "attn."),
    (r"mlp\.fc1", "mlp.up_proj"),
    (r"mlp\.fc2", "mlp.down_proj"),
)
_HF_VISION = (
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.", "patch."),
    (r"^embeddings\.position_embedding\.weight$", "positions"),
    (r"^pre_layrnorm\.", "pre_norm."),  # spelt so there
    (r"^post_layernorm\.", "post_norm."),
    (r"^head\.layernorm\.", "head.norm."),
    (r"^head\.attention\.out_proj", "head.attn.o_proj"),
    (r"^head\.attention\.", "head.attn."),
)
_HF_TEXT = (
    (r"^embeddings\.token_embedding\.weight$", "tokens"),
    (r"^embeddings\.position_embedding\.weight$", "positions"),
    (r"^final_layer_norm\.", "norm."),
)
_OPEN_CLIP = (
    (r"transformer\.resblocks\.", "layers."),
    (r"ln_([12])\.", r"norm\1."),
    (r"attn\.out_proj", "attn.o_proj"),
    (r"mlp\.c_fc", "mlp.up_proj"),
    (r"mlp\.c_proj", "mlp.down_proj"),
    (r"^conv1\.", "patch."),
    (r"^positional_embedding$", "positions"),
    (r"^ln_pre\.", "pre_norm."),
    (r"^ln_post\.", "post_norm."),
    (r"^ln_final\.", "norm."),
    (r"^token_embedding\.weight$", "tokens"),
)


def load_clip(
    source: str | Path | Mapping[str, Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    strict: bool = False,
    **fields: Any,
) -> CLIPModel:
    """Read a CLIP or SigLIP model.

    Args:
        source: a folder with config.json and safetensors, one .safetensors file, or tensors by name; names of transformers
            (with or without the prefix `vision_model.`) or of open_clip.
        config: transformers' config as JSON data, where `source` has none; without any, shapes are read off the tensors and
            a head is 64 wide (80 at width 1280), act quick_gelu for CLIP.
        image_size: pixels a side; positions of another grid are interpolated with a warning.
        strict: refuse positions of another grid instead.
        fields: of `ViTConfig` or, with the prefix `text_`, of `TextConfig`, that overrule what was found.
    Raises:
        UserError: files that are missing or damaged, tensors that do not fit; all are listed.
    """
    tensors, found = _read(source)
    config = config if config is not None else found
    towers = rename_clip(tensors)
    vision = vision_config(towers, config, image_size, {k: v for k, v in fields.items() if not k.startswith("text_")})
    text = _text_config(towers, config, vision, {k[5:]: v for k, v in fields.items() if k.startswith("text_")})
    with torch.device("meta"):
        model = CLIPModel(vision, text)
    _fill(model, towers, vision, "vision.", strict)
    return model.eval()


def load_vit(
    source: str | Path | Mapping[str, Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    strict: bool = False,
    **fields: Any,
) -> ViT:
    """The picture encoder alone of what `load_clip` reads; the text encoder may be missing."""
    tensors, found = _read(source)
    config = config if config is not None else found
    towers = rename_clip(tensors)
    vision = vision_config(towers, config, image_size, fields)
    with torch.device("meta"):
        model = ViT(vision)
    own = {name.removeprefix("vision."): tensor for name, tensor in towers.items() if name.startswith("vision.")}
    _fill(model, own, vision, "", strict)
    return model.eval()


def rename_clip(tensors: Mapping[str, Tensor]) -> State:
    """Tensors of either library under our names.

    Raises:
        UserError: names of neither.
    """
    names = list(tensors)
    if any(name.startswith("visual.") for name in names):
        return _from_open_clip(tensors)
    if any("embeddings.patch_embedding.weight" in name for name in names):
        return _from_transformers(tensors)
    raise UserError(f"weights: got {listed(names)}, need a CLIP or SigLIP model of transformers or open_clip")


def _from_transformers(tensors: Mapping[str, Tensor]) -> State:
    out: State = {}
    plain = {"visual_projection.weight": "visual_projection.weight", "text_projection.weight": "text_projection.weight"}
    plain |= {"logit_scale": "log_scale", "logit_bias": "bias"}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        if name in plain:
            out[plain[name]] = tensor.reshape(()) if name.startswith("logit_") else tensor
        elif name.startswith("text_model."):
            rest = name.removeprefix("text_model.")
            if rest.startswith("head."):
                out["text_projection." + rest.removeprefix("head.")] = tensor
            else:
                out["text." + _renamed(rest, _HF_TEXT + _BLOCK)] = tensor
        else:
            out |= _split_qkv("vision." + _renamed(name.removeprefix("vision_model."), _HF_VISION + _BLOCK), tensor)
    return out


def _from_open_clip(tensors: Mapping[str, Tensor]) -> State:
    out: State = {}
    plain = {"logit_scale": "log_scale", "logit_bias": "bias"}
    for name, tensor in tensors.items():
        if name in plain:
            out[plain[name]] = tensor.reshape(())
        elif name == "visual.proj":
            out["visual_projection.weight"] = tensor.T  # stored for x @ W
        elif name == "text_projection":
            out["text_projection.weight"] = tensor.T
        elif name != "attn_mask":
            tower, rest = ("vision.", name[7:]) if name.startswith("visual.") else ("text.", name)
            out |= _split_qkv(tower + _renamed(rest, _OPEN_CLIP), tensor)
    return out


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _split_qkv(name: str, tensor: Tensor) -> State:
    """Queries, keys and values that are stored as one matrix."""
    if not (packed := re.search(r"in_proj_(weight|bias)$", name)):
        return {name: tensor}
    stem = name[: packed.start()]
    return {f"{stem}{part}_proj.{packed[1]}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}


def vision_config(
    towers: State, config: Mapping[str, Any] | None, image_size: int | None, fields: Mapping[str, Any]
) -> ViTConfig:
    """Shape of the picture encoder: from its tensors, and from transformers' config where there is one."""
    patch = towers.get("vision.patch.weight")
    if patch is None:
        raise UserError("weights: no patch embedding of a picture encoder among them")
    clip = "vision.class_embedding" in towers
    dim, size = patch.shape[0], patch.shape[-1]
    told = dict((config or {}).get("vision_config") or config or {})
    side = round((towers["vision.positions"].shape[0] - clip) ** 0.5) * size
    projection = towers.get("visual_projection.weight")
    own: dict[str, Any] = {
        "preset": "tiny",
        "image_size": image_size or told.get("image_size") or side,
        "patch_size": size,
        "dim": dim,
        "layers": _depth(towers, "vision"),
        "heads": told.get("num_attention_heads") or _heads(dim),
        "mlp": towers["vision.layers.0.mlp.up_proj.weight"].shape[0],
        "embed_dim": dim if projection is None else projection.shape[0],
        "act": _act(told, clip),
        "kind": "clip" if clip else "siglip",
    }
    return ViTConfig(**own | dict(fields))


def _text_config(
    towers: State, config: Mapping[str, Any] | None, vision: ViTConfig, fields: Mapping[str, Any]
) -> TextConfig:
    if "text.tokens" not in towers:
        raise UserError("weights: no text encoder among them (load_vit reads the picture encoder alone)")
    told = dict((config or {}).get("text_config") or {})
    vocabulary, dim = towers["text.tokens"].shape
    kind: Kind = vision.kind
    eos = told.get("eos_token_id")
    if eos is None or (eos == 2 and vocabulary > 49000):
        eos = vocabulary - 1  # old configs name 2 where the tokenizer's end is the last id
    own: dict[str, Any] = {
        "vocab_size": vocabulary,
        "dim": dim,
        "layers": _depth(towers, "text"),
        "heads": told.get("num_attention_heads") or _heads(dim),
        "mlp": towers["text.layers.0.mlp.up_proj.weight"].shape[0],
        "max_len": towers["text.positions"].shape[0],
        "eos_id": eos,
        "act": _act(told, kind == "clip"),
        "kind": kind,
    }
    return TextConfig(**own | dict(fields))


def _heads(dim: int) -> int:
    return dim // 80 if dim == 1280 else dim // 72 if dim == 1152 else max(1, dim // 64)


def _act(told: Mapping[str, Any], clip: bool) -> str:
    names = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
    name = told.get("hidden_act")
    if name is None:
        return "quick_gelu" if clip else "gelu_tanh"
    if name not in names:
        raise UserError(f"config: hidden_act: got {name!r:.40}, need one of {', '.join(names)}")
    return names[name]


def _depth(towers: State, tower: str) -> int:
    numbers = [int(m[1]) for name in towers if (m := re.match(rf"{tower}\.layers\.(\d+)\.", name))]
    if not numbers:
        raise UserError(f"weights: the {tower} encoder has no blocks")
    return max(numbers) + 1


def _fill(model: torch.nn.Module, state: State, vision: ViTConfig, prefix: str, strict: bool) -> None:
    """Load in place; positions of another grid are interpolated first."""
    name = f"{prefix}positions"
    if name in state and (grids := position_fit(state, name, vision)):
        if strict:
            raise UserError(f"{name}: got a grid of {grids[0]}, need {grids[1]} (strict)")
        warnings.warn(f"{name}: interpolated from a grid of {grids[0]} to {grids[1]}", stacklevel=3)
        state = state | {name: interpolate_pos_embed(state[name], *grids)}
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    given = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if wrong := sorted(key for key in wanted if given.get(key) != wanted[key]):
        raise UserError(f"weights: missing, or of another shape than the config's: {listed(wrong)}")
    kept = {key: state[key].detach().clone().contiguous() for key in wanted}
    dtype = next(iter(kept.values())).dtype
    model.load_state_dict({key: tensor.to(dtype) for key, tensor in kept.items()}, assign=True)


def _read(source: str | Path | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], dict[str, Any] | None]:
    if isinstance(source, Mapping):
        return source, None
    path = Path(source)
    if path.is_dir():
        config = read_object(path / CONFIG) if (path / CONFIG).is_file() else None
        stem = "open_clip_model" if (path / "open_clip_model.safetensors").is_file() else "model"
        return read_tensors(path, stem=stem), config
    if path.suffix == ".safetensors" and path.is_file():
        return read_tensors(path.parent, stem=path.stem), None
    raise UserError(f"weights not found: {path}; need a folder with config.json and safetensors, or one .safetensors file")  # fmt: skip
