"""Floor 2: pictures: encoders, connectors, documents of texts and pictures, multimodal models and their measures.

Beside them the shapes world with its exact check, GenEval's files, emoji, pictures with captions. Names are loaded when first
used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "ViT": "vit",
    "ViTConfig": "vit",
    "CLIPModel": "clip",
    "TextConfig": "clip",
    "clip_loss": "contrastive",
    "siglip_loss": "contrastive",
    "AIMModel": "autoregressive",
    "aim_loss": "autoregressive",
    "interpolate_pos_embed": "positions",
    "load_clip": "clip_weights",
    "load_vit": "clip_weights",
    "build_connector": "connectors",
    "ImageProcessor": "image_processor",
    "render_scene": "scenes",
    "scene_questions": "scenes",
    "pack_documents": "multimodal_packing",
    "PackedBatch": "multimodal_packing",
    "unpack": "multimodal_packing",
    "with_image_token": "document_tokens",
    "MultimodalLM": "multimodal",
    "mm_loss": "multimodal",
    "load_llava": "llava_format",
    "save_llava": "llava_format",
    "save_model": "multimodal_folder",
    "open_model": "multimodal_folder",
    "cider": "cider",
    "vqa_accuracy": "vqa_accuracy",
    "retrieval": "retrieval",
}

__all__ = list(_HOME)


__getattr__ = lazy(__name__, _HOME)
