"""The multimodal model: packed beside padded rows, beside transformers' LLaVA, encoding in batches, the key-value cache, experts.

    python benchmarks/multimodal.py --threads 1 --out multimodal.json

Random weights; documents of a picture and a caption of 8 to 200 tokens in the order of arrival.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rows import Row, clock, milliseconds, parser, row, time_of, write

from tenfold.core.packing import Packer
from tenfold.core.stream import ArrayStream
from tenfold.core.timing import interleaved, ratio
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import MoE
from tenfold.nn.moe_config import MoEConfig
from tenfold.vision.connectors import build_connector
from tenfold.vision.llava_format import load_llava
from tenfold.vision.multimodal import MultimodalLM, mm_loss
from tenfold.vision.multimodal_packing import PackedBatch
from tenfold.vision.vit import ViT, ViTConfig

IMAGE, TOKENS, SIDE, LENGTH = 0, 4, 32, 1024  # id of the place-holder, tokens and pixels of a picture, T


def model(generator: torch.Generator, dim: int = 128, layers: int = 4) -> MultimodalLM:
    """A small encoder under a decoder of some width."""
    vision = ViT(ViTConfig(image_size=SIDE, patch_size=8), generator)
    connector = build_connector("avg", 64, dim, TOKENS, 4, generator=generator)
    lm = Decoder(
        DecoderConfig(2048, dim, layers, dim // 32, dim // 32, 32, 11 * dim // 4, qk_norm=False, max_len=LENGTH),
        generator,
    )
    return MultimodalLM(vision, connector, lm, image_id=IMAGE)


def batch_of(rows: list[list[int]], width: int, generator: torch.Generator) -> PackedBatch:
    """Rows of documents, each of so many tokens after its picture; what is left of the width is padding."""
    ids = torch.randint(1, 2048, (len(rows), width), generator=generator)
    labels, segments, positions = torch.full_like(ids, -100), torch.zeros_like(ids), torch.zeros_like(ids)
    places = []
    for number, documents in enumerate(rows):
        at = 0
        for index, size in enumerate(documents, start=1):
            ids[number, at : at + TOKENS] = IMAGE
            places.append([[number, at + k] for k in range(TOKENS)])
            segments[number, at : at + size] = index
            positions[number, at : at + size] = torch.arange(size)
            labels[number, at + TOKENS - 1 : at + size - 1] = ids[number, at + TOKENS : at + size]
            at += size
    pixels = torch.randn(len(places), 3, SIDE, SIDE, generator=generator)
    return PackedBatch(ids, labels, segments, positions, pixels, torch.tensor(places))


def packed_and_padded(repeats: int) -> Row:
    """Real tokens a second of training steps: rows of T packed by first fit, or as many documents padded to the longest of them.

    A step of either kind reads about 18 documents: two packed rows, or a batch of 18.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = [int(n) + TOKENS for n in np.random.default_rng(0).integers(8, 201, 1200)]
    rows = [row for row, _ in zip(Packer(ArrayStream([np.full(n, n) for n in sizes], shuffle=False), LENGTH - 1, "first_fit"), range(4), strict=False)]  # fmt: skip
    held = [[len(part) for part in np.split(row.tokens, np.flatnonzero(np.diff(row.segment_ids)) + 1) if part[0]] for row in rows]  # fmt: skip
    packed = [batch_of(held[i : i + 2], LENGTH, generator) for i in (0, 2)]
    padded = [batch_of([[size] for size in sizes[i : i + 18]], max(sizes[i : i + 18]), generator) for i in (0, 18)]
    real = {name: sum(int((b.segment_ids > 0).sum()) for b in each) for name, each in (("packed", packed), ("padded", padded))}  # fmt: skip
    full = {name: real[name] / sum(b.input_ids.numel() for b in each) for name, each in (("packed", packed), ("padded", padded))}  # fmt: skip
    trained = model(generator, dim=512, layers=2)

    def step(batches: list[PackedBatch]) -> None:
        for batch in batches:
            trained.zero_grad()
            mm_loss(trained, batch)[0].backward()

    timings = interleaved(
        {"packed": lambda: step(packed), "padded": lambda: step(padded)}, repeats, warmup=1, clock=clock
    )
    rates = {name: f"{real[name] / timings[name].median:.0f}" for name in real}
    note = f"decoder of width 512; {rates['packed']} against {rates['padded']} real tokens a second, {full['packed']:.0%} against {full['padded']:.0%} of the places filled"  # fmt: skip
    value = ratio(timings, "padded", "packed") * real["packed"] / real["padded"]
    return row("packed rows, real tokens a second / padded", value, note, 1.6)


def against_llava(repeats: int) -> Row:
    """Forward and backward of the same LLaVA, by transformers and here."""
    import transformers

    vision = transformers.CLIPVisionConfig(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8)  # fmt: skip
    text = transformers.LlamaConfig(hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4, vocab_size=2048)  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2)  # fmt: skip
    theirs = transformers.LlavaForConditionalGeneration(config)
    ours = load_llava(theirs.state_dict(), config=theirs.config.to_dict()).train()
    theirs.train()
    ids = torch.randint(1, 2048, (2, 64 + 192))
    ids[:, :64] = IMAGE
    labels = ids.where(ids != IMAGE, -100)
    pixels = torch.randn(2, 3, 64, 64)
    places = torch.stack([torch.arange(2)[:, None].expand(2, 64), torch.arange(64).expand(2, 64)], -1)
    shifted = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], 1)
    batch = PackedBatch(ids, shifted, torch.ones_like(ids), torch.arange(256).expand(2, -1), pixels, places)

    def here() -> None:
        ours.zero_grad()
        mm_loss(ours, batch)[0].backward()

    def there() -> None:
        theirs.zero_grad()
        theirs(input_ids=ids, pixel_values=pixels, labels=labels).loss.backward()

    timings = interleaved({"ours": here, "theirs": there}, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['theirs'])}, 2 x 256 tokens, fp32"
    return row("forward and backward, transformers' LLaVA / ours", ratio(timings, "theirs", "ours"), note, 1 / 1.10)


def encoding(repeats: int) -> Row:
    """Sixteen pictures at once, or one by one."""
    generator = torch.Generator().manual_seed(0)
    vision = ViT(ViTConfig(image_size=SIDE, patch_size=8), generator).eval()
    pixels = torch.randn(16, 3, SIDE, SIDE, generator=generator)
    with torch.inference_mode():
        ways = {"one": lambda: [vision(each[None]) for each in pixels], "batch": lambda: vision(pixels)}
        timings = interleaved(ways, repeats * 5, warmup=2, clock=clock)
    note = f"{milliseconds(timings['batch'])} against {milliseconds(timings['one'])}"
    return row("16 pictures one by one / in one batch", ratio(timings, "one", "batch"), note, 1.5)


def cached(repeats: int) -> Row:
    """64 new tokens after a prompt of 256, with keys and values kept or everything read again."""
    from tenfold.lm.generate import generate

    built = model(torch.Generator().manual_seed(0)).eval()
    prompt = torch.randn(256, 128, generator=torch.Generator().manual_seed(1))

    @torch.inference_mode()
    def again() -> None:
        vectors = prompt[None]
        for _ in range(64):
            token = built.lm(embeds=vectors)[:, -1].argmax(-1)
            vectors = torch.cat([vectors, built.lm.embed_tokens(token)[:, None]], 1)

    def kept() -> Any:
        return generate(built.lm, embeds=[prompt], max_new_tokens=64, temperature=0)

    timings = interleaved({"kept": kept, "again": again}, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['kept'])} against {milliseconds(timings['again'])}"
    return row("64 tokens after 256, without / with the cache", ratio(timings, "again", "kept"), note, 3.0)


def experts(repeats: int) -> Row:
    """Dropless top-2 of 8 experts beside the dense layer of equal active width, 4096 tokens."""
    generator = torch.Generator().manual_seed(0)
    sparse = MoE(MoEConfig(256, 512, 8, dropless=True), generator=generator)
    dense = FeedForward(256, 1024, generator=generator)
    x = torch.randn(1, 4096, 256, generator=generator)

    def step(layer: torch.nn.Module) -> None:
        layer.zero_grad()
        layer(x).sum().backward()

    timings = interleaved({"dense": lambda: step(dense), "moe": lambda: step(sparse)}, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['moe'])} against {milliseconds(timings['dense'])}, forward and backward"
    return row("dense of equal active width / top-2 of 8", ratio(timings, "dense", "moe"), note, 1 / 1.5)


def main() -> None:
    arguments = parser(__doc__.split("\n")[0], repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [each(arguments.repeats) for each in (packed_and_padded, against_llava, encoding, cached, experts)]
    what = f"Small models with random weights, {time_of(arguments.threads)}."
    write(arguments.out, "Multimodal models", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
