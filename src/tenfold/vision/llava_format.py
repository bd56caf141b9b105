"""Multimodal models as LLaVA folders of transformers, in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.core.atomic import write_atomic
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, listed, read_tensors, whole_state, write_folder
from tenfold.lm.config_json import config_to_json
from tenfold.lm.formats import build_decoder, plain_state, to_hf
from tenfold.text.tokenizer import Tokenizer
from tenfold.vision.clip_weights import load_vit
from tenfold.vision.connectors import Mlp, build_connector
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.vit import ViT

PROJECTOR = "multi_modal_projector"
PREPROCESSOR = "preprocessor_config.json"
_TO_HF = (
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^patch\.", "embeddings.patch_embedding."),
    (r"^positions$", "embeddings.position_embedding.weight"),
    (r"^pre_norm\.", "pre_layrnorm."),
    (r"^post_norm\.", "post_layernorm."),
    (r"^head\.norm\.", "head.layernorm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"attn\.o_proj", "attn.out_proj"),
    (r"^(encoder.*)\.attn\.", r"\1.self_attn."),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
)


def load_llava(source: str | Path | Mapping[str, Tensor], *, config: Mapping[str, Any] | None = None) -> MultimodalLM:
    """Read a LLaVA model: CLIP or SigLIP encoder, two-layer projector, Llama or Qwen3 decoder.

    Args:
        source: a folder, or tensors by name together with `config`, the content of config.json.
    Raises:
        UserError: missing or damaged files, a model of another kind, tensors that do not fit.
    """
    if isinstance(source, Mapping):
        if config is None:
            raise ValueError("config: got None with tensors, need the content of config.json")
        tensors, where = source, "llava"
    else:
        config, tensors, where = read_object(Path(source) / CONFIG), read_tensors(Path(source)), str(source)
    if config.get("model_type") != "llava":
        raise UserError(f"{where}: model_type: got {config.get('model_type')!r:.40}, need llava")
    if config.get("projector_hidden_act", "gelu") != "gelu":
        raise UserError(f"{where}: projector_hidden_act: got {config['projector_hidden_act']!r:.40}, need gelu")
    parts = _split(tensors, where)
    vision = load_vit(parts["vision"], config=config["vision_config"])
    text = dict(config["text_config"])
    lm = build_decoder(text, parts["lm"], where=where)
    connector = build_connector("mlp", vision.cfg.dim, lm.cfg.dim, None, vision.cfg.grid)
    try:
        connector.load_state_dict(parts["connector"])
    except RuntimeError as fault:
        raise UserError(f"{where}: {PROJECTOR}: {' '.join(str(fault).split())[:300]}") from fault
    layer = config.get("vision_feature_layer", -2)
    model = MultimodalLM(vision, connector, lm, feature_layer=layer, image_id=config.get("image_token_index"))
    if not isinstance(source, Mapping) and (Path(source) / "tokenizer.json").is_file():
        model.tokenizer = Tokenizer.load(source)
        model.processor = _processor(Path(source) / PREPROCESSOR, vision)
    return model.eval()


def _processor(file: Path, vision: ViT) -> ImageProcessor:
    """Of a folder: the whole picture in a square; its means and deviations are those of the file, where there is one."""
    told = read_object(file) if file.is_file() else {}
    mean, std = vision.cfg.normalisation
    mean, std = told.get("image_mean", mean), told.get("image_std", std)
    try:
        return ImageProcessor(vision.cfg.image_size, mean=mean, std=std, tokens=vision.cfg.patches)
    except (TypeError, ValueError, OverflowError) as fault:
        raise UserError(f"{file}: {fault}") from fault


def save_llava(model: MultimodalLM, folder: str | Path) -> None:
    """Write a folder that transformers opens as `LlavaForConditionalGeneration`, with the same logits.

    The vocabulary grows to hold the id of `<image>`, as those classes need it.

    Raises:
        UserError: a connector other than "mlp", or a decoder whose layers those classes do not have.
    """
    folder = Path(folder)
    if model.vision is None or not isinstance(model.connector, Mlp):
        raise UserError("LLaVA: its classes know a picture encoder with connector 'mlp' alone; train with that one")
    cfg, vision = model.lm.cfg, model.vision.cfg
    text = config_to_json(cfg)
    if text["model_type"] not in ("llama", "qwen3"):
        raise UserError(f"LLaVA: the decoder is {text['model_type']}, need llama or qwen3 (dense)")
    image_id = model.image_id if model.image_id is not None else cfg.vocab_size
    lm = _grown(plain_state(model.lm), image_id + 1)
    text["vocab_size"] = max(cfg.vocab_size, image_id + 1)
    tensors = {f"language_model.{name}": tensor for name, tensor in to_hf(lm, cfg).items()}
    state = whole_state(model)
    for name, tensor in state.items():
        if name.startswith("vision."):
            tensors |= _vision_to_hf(name.removeprefix("vision."), tensor)
        elif name.startswith("connector."):
            tensors[f"{PROJECTOR}.{name.removeprefix('connector.')}"] = tensor
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    clip = vision.kind == "clip"
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "dtype": dtype,
        "image_token_index": image_id,
        "image_seq_length": vision.patches,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": model.feature_layer,
        "vision_feature_select_strategy": "default" if clip else "full",
        "tie_word_embeddings": cfg.tie_embeddings,
        "text_config": text | {"dtype": dtype},
        "vision_config": _vision_json(model),
    }
    _write_sides(model, folder)
    write_folder(folder, config, tensors)


def _write_sides(model: MultimodalLM, folder: Path) -> None:
    """Tokenizer and image processor, where the model has them."""
    folder.mkdir(parents=True, exist_ok=True)
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
    if model.processor is not None and model.vision is not None:
        size = model.processor.size
        preprocessor = {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"height": size, "width": size},
            "resample": 3,
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": list(model.processor.mean),
            "image_std": list(model.processor.std),
        }
        write_atomic(folder / PREPROCESSOR, json.dumps(preprocessor, indent=1))
        patch = {
            "processor_class": "LlavaProcessor",
            "patch_size": model.vision.cfg.patch_size,
            "vision_feature_select_strategy": "default" if model.vision.cfg.kind == "clip" else "full",
            "num_additional_image_tokens": int(model.vision.cfg.kind == "clip"),
            "image_token": "<image>",
        }
        write_atomic(folder / "processor_config.json", json.dumps(patch, indent=1))


def _vision_json(model: MultimodalLM) -> dict[str, Any]:
    assert model.vision is not None
    cfg = model.vision.cfg
    act = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}[cfg.act]
    return {
        "model_type": "clip_vision_model" if cfg.kind == "clip" else "siglip_vision_model",
        "hidden_size": cfg.dim,
        "intermediate_size": cfg.mlp,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "image_size": cfg.image_size,
        "patch_size": cfg.patch_size,
        "projection_dim": cfg.embed_dim,
        "hidden_act": act,
        "layer_norm_eps": cfg.norm_eps,
    } | ({} if cfg.kind == "clip" else {"vision_use_head": False})


def _vision_to_hf(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name.startswith("head."):
        return {}  # SigLIP's pooling head: patch features do not pass through it
    for pattern, new in _TO_HF:
        name = re.sub(pattern, new, name)
    return {f"vision_tower.{name}": tensor}


def _grown(state: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    """Rows of zeros behind the vocabulary's own."""
    out = dict(state)
    for name in ("embed_tokens.weight", "lm_head.weight"):
        if name in out and (missing := rows - len(out[name])) > 0:
            out[name] = torch.cat([out[name], out[name].new_zeros(missing, out[name].shape[1])])
    return out


def _split(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """Tensors of encoder, projector and decoder, of any layout that transformers has written."""
    parts: dict[str, dict[str, Tensor]] = {"vision": {}, "connector": {}, "lm": {}}
    strangers = []
    for name, tensor in tensors.items():
        plain = name.removeprefix("model.") if not name.startswith("model.layers") else name
        if plain.startswith("vision_tower."):
            parts["vision"][plain.removeprefix("vision_tower.")] = tensor
        elif plain.startswith(f"{PROJECTOR}."):
            parts["connector"][plain.removeprefix(f"{PROJECTOR}.")] = tensor
        elif plain == "lm_head.weight":
            parts["lm"][plain] = tensor
        elif plain.startswith("language_model."):
            rest = plain.removeprefix("language_model.")
            parts["lm"][rest if rest.startswith(("model.", "lm_head")) else f"model.{rest}"] = tensor
        else:
            strangers.append(name)
    if strangers:
        raise UserError(f"{where}: tensors of no known part: {listed(strangers)}")
    return parts
