"""A trained multimodal model as a folder: encoder and connector in model.safetensors, the decoder in lm/, the tokenizer beside."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tenfold.core.config import from_json, read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, listed, read_tensors, whole_state, write_folder
from tenfold.lm.decoder import Decoder
from tenfold.text.tokenizer import Tokenizer
from tenfold.vision.connectors import build_connector
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.vit import ViT, ViTConfig

KIND = "tenfold_multimodal"


def save_model(model: MultimodalLM, folder: str | Path) -> None:
    """Write a model with its tokenizer and image processor; config.json comes last.

    Raises:
        ValueError: a model without picture encoder, tokenizer or processor.
    """
    if model.vision is None or model.connector is None or model.tokenizer is None or model.processor is None:
        raise ValueError("model: need a picture encoder, a connector, a tokenizer and an image processor")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.lm.save_pretrained(folder / "lm")
    model.tokenizer.save(folder)
    processor = model.processor
    config: dict[str, Any] = {
        "model_type": KIND,
        "vision": asdict(model.vision.cfg),
        "connector": model.connector.settings,
        "feature_layer": model.feature_layer,
        "processor": {
            "size": processor.size,
            "fit": processor.fit,
            "tiles": list(processor.tiles) if isinstance(processor.tiles, tuple) else processor.tiles,
            "overview": processor.overview,
            "mean": list(processor.mean),
            "std": list(processor.std),
        },
    }
    tensors = {name: tensor for name, tensor in whole_state(model).items() if not name.startswith("lm.")}
    write_folder(folder, config, tensors)


def open_model(folder: str | Path) -> MultimodalLM:
    """Read what `save_model` wrote, in eval mode.

    Raises:
        UserError: missing or damaged files, tensors that do not fit, weights that are not finite.
    """
    folder = Path(folder)
    config = read_object(folder / CONFIG, vision=dict, connector=dict, processor=dict, feature_layer=int)
    if config.get("model_type") != KIND:
        raise UserError(f"{folder}: model_type: got {config.get('model_type')!r:.40}, need {KIND}")
    where = str(folder / CONFIG)
    vision_cfg = from_json(ViTConfig, config["vision"], where=f"{where}: vision")
    tokenizer = Tokenizer.load(folder)
    lm = Decoder.from_pretrained(folder / "lm")
    try:
        options = dict(config["connector"])
        grid = tuple(options.pop("grid"))
        with torch.device("meta"):
            vision = ViT(vision_cfg)
            connector = build_connector(options.pop("name"), grid=grid, **options)
        mean, std = vision_cfg.normalisation
        told: dict[str, Any] = {"mean": mean, "std": std} | config["processor"]
        if isinstance(told.get("tiles"), list):
            told["tiles"] = tuple(told["tiles"])
        processor = ImageProcessor(**told, tokens=int(config["connector"]["tokens"]))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as fault:
        raise UserError(f"{where}: {fault}; the file is damaged") from fault
    model = MultimodalLM(
        vision, connector, lm, feature_layer=config["feature_layer"], tokenizer=tokenizer, processor=processor
    )
    tensors = read_tensors(folder)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not name.startswith("lm.")}
    if wrong := sorted(n for n in wanted.keys() | tensors.keys() if n not in wanted or n not in tensors or tensors[n].shape != wanted[n]):  # fmt: skip
        raise UserError(f"{folder}: tensors that do not fit {CONFIG}: {listed(wrong)}")
    model.load_state_dict(tensors | {f"lm.{n}": t for n, t in lm.state_dict().items()}, assign=True)
    if odd := [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]:
        raise UserError(f"{folder}: weights that are not finite: {listed(odd)}; train it again, or copy it anew")
    return model.eval()
