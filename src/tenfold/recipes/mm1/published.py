"""The paper's figures that stand beside ours: MM1, arXiv 2403.09611, Tables 1 to 4 and Figures 4 and 5."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

# Mean few-shot score at 0, 4 and 8 shots, 2.9B language model.
ENCODERS: list[Row] = [
    {"encoder": name, "pixels": pixels, "data": data, "0 shots": zero, "4 shots": four, "8 shots": eight}
    for name, pixels, data, zero, four, eight in (
        ("AIM-600M", 224, "DFN-2B", 36.6, 56.6, 60.7),
        ("AIM-1B", 224, "DFN-2B", 37.9, 59.5, 63.3),
        ("AIM-3B", 224, "DFN-2B", 38.9, 60.9, 64.9),
        ("CLIP ViT-L", 224, "DFN-5B + VeCap", 36.9, 58.7, 62.2),
        ("CLIP ViT-H", 224, "DFN-5B", 37.5, 60.0, 63.6),
        ("CLIP ViT-L", 336, "DFN-5B", 39.9, 62.4, 66.0),
        ("CLIP ViT-H", 336, "DFN-5B", 40.5, 62.6, 66.3),
        ("OpenAI CLIP ViT-L", 336, "ImageText-400M", 39.3, 62.2, 66.1),
        ("CLIP ViT-H", 378, "DFN-5B", 40.9, 62.5, 66.4),
    )
]
_TASKS = ("COCO", "NoCaps", "TextCaps", "VQAv2", "TextVQA", "VizWiz", "OKVQA")
PRETRAINED: list[Row] = [
    {"model": model, "shots": shots, **dict(zip(_TASKS, figures, strict=True))}
    for model, shots, figures in (
        ("MM1-3B", 0, (73.5, 55.6, 63.3, 46.2, 29.4, 15.6, 26.1)),
        ("MM1-3B", 8, (114.6, 104.7, 88.8, 63.6, 44.6, 46.4, 48.4)),
        ("MM1-7B", 0, (76.3, 61.0, 64.2, 47.8, 28.8, 15.6, 22.6)),
        ("MM1-7B", 8, (116.3, 106.6, 88.2, 63.6, 46.3, 45.3, 51.4)),
        ("MM1-30B", 0, (70.3, 54.6, 64.9, 48.9, 28.2, 14.5, 24.1)),
        ("MM1-30B", 8, (123.1, 111.6, 92.9, 70.9, 49.4, 49.9, 58.3)),
    )
]
MIXES: list[Row] = [
    {"mix": "captions 0 → 100 %", "shots": "0", "paper": "25.8 → 39.3"},
    {"mix": "at least 50 % interleaved", "shots": "8", "paper": "above 61 (45.0 without interleaved)"},
    {"mix": "at least 50 % interleaved", "shots": "4", "paper": "above 58 (43.7 without interleaved)"},
    {"mix": "with VeCap captions", "shots": "4 / 8", "paper": "+2.4 / +4.0"},
]
# What the paper says of the axis that a cell varies.
AXIS = {
    "mix": "interleaved data drives few-shot, captions zero-shot; 45/45/10",
    "resolution": "224 → 336 pixels: about +3 points",
    "tokens": "number of visual tokens and resolution matter most",
    "connector": "little effect",
    "encoder": "ViT-L → ViT-H: below 1 point",
    "decoder": "experts ahead of dense after tuning",
    "tiles": "1344 pixels: +15 % relative to 336",
    "task": "",
}

# The published sizes. Encoder, connector and the experts' numbers and places are the paper's; it prints no decoder shapes: ours
# are chosen so that the dense ones have 3, 7 and 30 billion weights and the sparse ones 64 and 47, as it says.
SIZES: dict[str, Row] = {
    name: dict(
        zip(("dim", "layers", "heads", "kv_heads", "ffn", "experts", "every", "lr", "billions"), row, strict=True)
    )
    for name, row in {
        "3b": (2560, 32, 20, 20, 7936, 0, 1, 6e-5, 3),
        "7b": (4096, 32, 32, 8, 13056, 0, 1, 4e-5, 7),
        "30b": (7168, 48, 56, 56, 19456, 0, 1, 2e-5, 30),
        "3b-moe64": (2560, 32, 20, 20, 7936, 64, 2, 6e-5, 64),
        "7b-moe32": (4096, 32, 32, 8, 13056, 32, 4, 4e-5, 47),
        "ablation": (2048, 24, 16, 16, 4608, 0, 1, 8.6e-5, 1.2),
    }.items()
}
VOCABULARY = 100_352  # of the sizes above; the paper does not print its own
PIXELS, TOKENS, CONTEXT = 378, 144, 4096
