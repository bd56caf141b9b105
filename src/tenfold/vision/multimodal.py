"""A language model that reads pictures: encoder, connector, decoder; its loss."""

# Shape legend: B rows, T tokens of a row, C crops, k tokens of a crop, n patches, D width of the decoder, V vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tenfold.lm.decoder import Decoder
from tenfold.lm.loss import IGNORED, token_losses
from tenfold.nn.moe import moe_layers
from tenfold.vision.document_tokens import special_ids
from tenfold.vision.multimodal_packing import PackedBatch
from tenfold.vision.vit import ViT

if TYPE_CHECKING:
    from tenfold.vision.image_processor import ImageProcessor

BALANCE_WEIGHT, Z_WEIGHT = 0.01, 0.001  # of the experts' losses: MM1, Appendix


class MultimodalLM(nn.Module):
    """Picture encoder, connector and decoder as one model.

    Args:
        vision: encoder of pictures; None for a model that reads text alone.
        connector: patch features (C, n, D_v) to (C, k, D); None likewise.
        lm: the decoder. Its vocabulary need not hold the id of `<image>`: those places take the pictures' vectors.
        feature_layer: of the encoder, see `ViT.forward`.
        tokenizer, processor: what `generate` turns texts and pictures into tokens with.
        image_id: of `<image>` in the rows; None takes the tokenizer's. Known, every place-holder is held against the pictures.
    Source: MM1, Section 3.
    """

    def __init__(
        self,
        vision: ViT | None,
        connector: nn.Module | None,
        lm: Decoder,
        *,
        feature_layer: int = -1,
        tokenizer: Any = None,
        processor: ImageProcessor | None = None,
        image_id: int | None = None,
    ) -> None:
        super().__init__()
        if (vision is None) != (connector is None):
            raise ValueError("vision, connector: got one of them, need both or neither")
        self.vision, self.connector, self.lm = vision, connector, lm
        self.feature_layer = feature_layer
        self.tokenizer, self.processor = tokenizer, processor
        if image_id is None and tokenizer is not None:
            image_id = special_ids(tokenizer).image
        self.image_id = image_id

    def picture_tokens(self, pixels: Tensor) -> Tensor:
        """Crops (C, 3, S, S), or features of them (C, n, D_v) encoded before, to vectors of the decoder (C, k, D)."""
        if self.vision is None or self.connector is None:
            raise ValueError(f"pictures: got {len(pixels)}, the model has no picture encoder")
        features = pixels if pixels.ndim == 3 else self.vision(pixels, self.feature_layer)
        vectors: Tensor = self.connector(features)
        return vectors

    def embed(self, batch: PackedBatch) -> Tensor:
        """Input vectors (B, T, D): of the tokens, and of the pictures at their places.

        Raises:
            ValueError: places that do not fit the pictures, or the connector's number of tokens.
        """
        ids, pixels, places = batch.input_ids, batch.pixel_values, batch.image_pos
        flat = places.reshape(-1, 2)
        spots = torch.zeros_like(ids, dtype=torch.bool)
        inside = flat[(flat[:, 0] < ids.shape[0]) & (flat[:, 1] < ids.shape[1])]
        spots[inside[:, 0], inside[:, 1]] = True
        check_places(ids, spots, places, len(pixels), self.image_id)
        embeds = self.lm.embed_tokens(ids.masked_fill(spots, 0))
        if len(pixels):
            vectors = self.picture_tokens(pixels)
            if vectors.shape[1] != places.shape[1]:
                raise ValueError(
                    f"pictures: the connector makes {vectors.shape[1]} tokens of a crop, the rows hold {places.shape[1]}"
                )
            index = flat[:, 0], flat[:, 1]
            return embeds.index_put(index, vectors.flatten(0, 1).to(embeds.dtype))
        if self.vision is not None and self.training and dist.is_initialized() and dist.get_world_size() > 1:
            # Every process must run every sharded layer: a blank picture whose vectors count nothing.
            side = self.vision.cfg.image_size
            blank = torch.zeros(1, 3, side, side, device=ids.device, dtype=embeds.dtype)
            embeds = embeds + 0 * self.picture_tokens(blank).sum()
        return embeds

    def forward(self, batch: PackedBatch, *, learnt_only: bool = False) -> Tensor:
        """Logits of the next token.

        Args:
            batch: packed rows. `pixel_values` may hold features (C, n, D_v) in place of pixels.
            learnt_only: of the places with a label alone, which saves the others' product with the vocabulary.
        Returns:
            (B, T, V), or (places with a label, V).
        """
        embeds = self.embed(batch)
        if bool((batch.segment_ids == 1).all()):  # one document a row, without padding: the mask is plain causality
            hidden = self.lm.hidden(embeds=embeds, positions=batch.position_ids)
        else:
            hidden = self.lm.hidden(embeds=embeds, positions=batch.position_ids, segments=batch.segment_ids)
        return self.lm.head(hidden[batch.labels != IGNORED] if learnt_only else hidden)

    def generate(
        self,
        segments: Sequence[Mapping[str, Any]],
        max_new: int = 64,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        **options: Any,
    ) -> str:
        """Continue one document with text; see `multimodal_generate.generate`."""
        from tenfold.vision.multimodal_generate import generate

        return generate(self, [segments], max_new, stop, temperature, **options)[0].text


def mm_loss(model: nn.Module, batch: PackedBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy over the labels of a batch, plus 0.01 · load balance + 0.001 · router z-loss of every sparse layer.

    Returns:
        the loss (0 for a batch without labels), and detached "weight", the number of labels, "ce", and "aux" with experts.
    Source: MM1, Sections 3 and 4 (loss on text tokens only); Appendix (MoE).
    """
    logits_NV = model(batch, learnt_only=True)
    labels_N = batch.labels[batch.labels != IGNORED]
    weight = torch.tensor(len(labels_N), device=logits_NV.device)
    ce = token_losses(logits_NV, labels_N)[0].sum() / max(1, len(labels_N)) if len(labels_N) else logits_NV.sum() * 0
    metrics = {"ce": ce.detach(), "weight": weight}
    layers = [layer.last for _, layer in moe_layers(model) if layer.last is not None]
    if not layers:
        return ce, metrics
    aux = torch.stack([BALANCE_WEIGHT * each.lb_loss + Z_WEIGHT * each.z_loss for each in layers]).sum()
    metrics["aux"] = aux.detach()
    return ce + aux, metrics


def check_places(ids: Tensor, spots: Tensor, places: Tensor, crops: int, image_id: int | None) -> None:
    """Hold pictures against their places: as many of both, inside the rows, and a place-holder token at each.

    Args:
        ids, spots: (B, T), spots True at the places.
        places: (C, k, 2).
        crops: C of the pictures.
        image_id: of the place-holder; None: not known, then only the numbers are compared.
    Raises:
        ValueError: one line with both numbers and the row.
    """
    if len(places) != crops:
        raise ValueError(f"pictures: got {crops} crops and places for {len(places)}")
    if crops:
        low, high = places.flatten(0, 1).amin(0).tolist(), places.flatten(0, 1).amax(0).tolist()
        if min(low) < 0 or high[0] >= ids.shape[0] or high[1] >= ids.shape[1]:
            raise ValueError(f"image_pos: got places {low}..{high}, need them inside {tuple(ids.shape)} (rows, tokens)")
    if image_id is None or not (wrong := ((ids == image_id) != spots).any(1).nonzero().flatten().tolist()):
        return
    row = wrong[0]
    marked, named = int((ids[row] == image_id).sum()), int(spots[row].sum())
    raise ValueError(f"row {row}: got {marked} place-holder tokens and pictures for {named}, need one place for each")
