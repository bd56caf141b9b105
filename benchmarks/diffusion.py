"""The diffusion transformer: its expert-choice layer beside diffusers', experts beside dense, stored beside encoded data.

    python benchmarks/diffusion.py --threads 1 --out diffusion.json

Needs diffusers, and the package of all-MiniLM-L6-v2 for the row about stored text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.transformers.transformer_nucleusmoe_image import NucleusMoELayer
from rows import Row, milliseconds, parser, row, write
from torch import Tensor, nn

from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import adamw
from tenfold.core.timing import interleaved, ratio
from tenfold.diffusion.codec import KLCodec
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.flow import rectified_flow_loss
from tenfold.diffusion.reports import flop_report
from tenfold.diffusion.transformer import ECDiT
from tenfold.lm import pretrained
from tenfold.nn.moe import ExpertChoiceMoE
from tenfold.text.encoders import HFTextEncoder

WORDS = 7  # of a caption


def nucleus_rows(repeats: int) -> list[Row]:
    """Forward and backward of the layer with equal weights: theirs over ours, so that above 1 ours is faster."""
    rows = []
    for batch, tokens in ((8, 256), (2, 1024)):
        torch.manual_seed(0)
        theirs = NucleusMoELayer(128, 256, 16, 2.0, use_sigmoid=False, route_scale=1.0)
        for parameter in theirs.parameters():
            nn.init.normal_(parameter, std=0.05)
        ours = ExpertChoiceMoE(128, 256, 16, activation="swiglu", bias=False, renormalize=True, shared_expert=True)
        with torch.no_grad():
            ours.gate_weight.copy_(theirs.gate.weight[:, 128:].T)
        x, grad, time = torch.randn(batch, tokens, 128), torch.randn(batch, tokens, 128), torch.zeros(batch, 128)

        def step(layer: nn.Module, *more: Tensor, x: Tensor = x, grad: Tensor = grad) -> Callable[[], None]:
            def call() -> None:
                layer.zero_grad(set_to_none=True)
                layer(x.detach().requires_grad_(), x, *more).backward(grad)

            return call

        timings = interleaved({"ours": step(ours), "theirs": step(theirs, time)}, 4 * repeats)
        note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['theirs'])}"
        rows.append(
            row(f"layer S={tokens}: diffusers' Nucleus / ours", ratio(timings, "theirs", "ours"), note, 1 / 1.05)
        )
    return rows


def model_rows(repeats: int) -> list[Row]:
    """Forward of the tiny model at 32 images: experts over dense, beside the ratio of their operations."""
    calls, images = {}, 32
    config = ECDiTConfig()
    x, t = torch.randn(images, 3, 32, 32), torch.rand(images)
    text = torch.randn(images, WORDS, config.text_dim)
    for router in ("ec", "dense", "tc"):
        model = ECDiT(replace(config, router=router), generator=torch.Generator().manual_seed(0)).eval()

        def forward(model: ECDiT = model) -> None:
            with torch.no_grad():
                model(x, t, text)

        calls[router] = forward
    timings = interleaved(calls, 4 * repeats)
    theory = flop_report(config, text_tokens=WORDS).ratio
    measured = ratio(timings, "ec", "dense")
    note = f"{measured:.3f} measured, {theory:.3f} by operations; the bar is measured <= operations + 0.15"
    tc = ratio(timings, "tc", "ec")
    return [
        row("tiny model, forward: allowed / measured ratio of ec to dense", (theory + 0.15) / measured, note, 1.0),
        row("tiny model, forward: token choice / expert choice", tc, f"{milliseconds(timings['ec'])} expert choice"),
    ]


def memory_rows() -> list[Row]:
    """What the layer keeps for its backward pass beside the one-hot [B, E, C, S] tensor that it does without."""
    batch, tokens, experts = 2, 1024, 16
    layer = ExpertChoiceMoE(128, 512, experts)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(torch.randn(batch, tokens, 128, requires_grad=True))
    hidden = 2 * batch * tokens * 2 * 512 * 4  # before and behind the activation, two experts a token
    weights = sum(parameter.nbytes for parameter in layer.parameters())
    onehot = batch * experts * (2 * tokens // experts) * tokens * 4
    beyond = max(0, sum(kept.values()) - hidden - weights)
    del y
    return [
        row(
            "dispatch memory: one-hot tensor / all that ours keeps beyond hidden states",
            onehot / max(1, beyond),
            f"{onehot / 1e6:.0f} MB against {beyond / 1e6:.1f} MB",
            1.0,
        )
    ]


def stored_rows(repeats: int) -> list[Row]:
    """A training step on latents and text states that were stored, beside one that encodes its batch."""
    try:
        encoder = HFTextEncoder(pretrained.path("all-minilm-l6-v2"), "bert", 16)
    except UserError as missing:
        print(f"left out: {missing}")
        return []
    with tempfile.TemporaryDirectory() as folder:
        AutoencoderKL(
            block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=8, sample_size=64,
        ).save_pretrained(folder)  # fmt: skip
        codec = KLCodec(Path(folder))
    config = ECDiTConfig(in_channels=4, text_dim=encoder.dim)
    model = ECDiT(config, generator=torch.Generator().manual_seed(0))
    state = TrainState(model, adamw(model, 1e-3))
    images, captions = torch.rand(16, 3, 64, 64) * 2 - 1, [f"a picture of the number {i}" for i in range(16)]

    def encoded() -> dict[str, Tensor]:
        text, mask = encoder.encode(captions)
        return {"image": codec.encode(images), "text": text, "text_mask": mask}

    stored = encoded()

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, object]]:
        return rectified_flow_loss(model, batch, text_dropout=0.0, generator=torch.Generator().manual_seed(0))

    timings = interleaved(
        {
            "stored": lambda: train_step(state, loss, [stored]),
            "encoded": lambda: train_step(state, loss, [encoded()]),
        },
        repeats,
    )
    note = f"{milliseconds(timings['stored'])} stored; an untrained small autoencoder, MiniLM, 16 pictures of 64 x 64"
    return [
        row(
            "training step: encoding its batch / stored latents and text",
            ratio(timings, "encoded", "stored"),
            note,
            1.0,
        )
    ]


def precision_rows(repeats: int) -> list[Row]:
    """A training step of the tiny model at 64 pictures in float32 over one in bfloat16."""
    config = ECDiTConfig()
    batch = {"image": torch.randn(64, 3, 32, 32), "text": torch.randn(64, WORDS, config.text_dim)}
    calls = {}
    for precision in ("fp32", "bf16"):
        model = ECDiT(config, generator=torch.Generator().manual_seed(0))
        state = TrainState(model, adamw(model, 1e-3))

        def step(state: TrainState = state, precision: str = precision) -> None:
            train_step(state, loss, [batch], precision=precision)  # type: ignore[arg-type]

        calls[precision] = step

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, object]]:
        return rectified_flow_loss(model, batch, text_dropout=0.0, generator=torch.Generator().manual_seed(0))

    timings = interleaved(calls, repeats)
    rate = 64 / timings["bf16"].median
    return [
        row(
            "tiny model, training step: fp32 / bf16",
            ratio(timings, "fp32", "bf16"),
            f"{rate:.0f} pictures a second in bf16",
        )
    ]


def main() -> None:
    arguments = parser("the diffusion transformer", repeats=7).parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = arguments.repeats
    rows = [
        *nucleus_rows(repeats),
        *model_rows(repeats),
        *memory_rows(),
        *stored_rows(repeats),
        *precision_rows(repeats),
    ]
    what = "Expert-choice diffusion transformer, fp32 if a line says no other; 16 experts of 256 in the layer, the preset tiny as model."
    write(arguments.out, "Diffusion transformer", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
