"""What a training step of a dense or mixture-of-experts decoder costs: arithmetic, communication, memory.

The model is first order: every count is closed form, nothing is measured. It answers which mesh to try first, whether a
model fits, and what share of a step the experts' all-to-all can take (Du et al. 2024, arXiv 2405.15052, ask for step
time, not FLOPs, as the measure of cost; `tenfold.lm.steptime` measures it).
"""

from __future__ import annotations

from dataclasses import dataclass

from tenfold.core.errors import UserError
from tenfold.lm.hardware import Hardware

# fp32 master weight and two Adam moments (12 bytes) and the bfloat16 weight (2 bytes).
BYTES_PER_PARAMETER = 14
REPORTED_SPEEDUP = 2.06  # dense 6.4B over 1.6B/256E on hardware, as summaries of the paper report it


@dataclass(frozen=True)
class Shape:
    """A decoder's dimensions: RoPE attention, SwiGLU feed-forward, untied embeddings.

    Attributes:
        name: what tables print.
        layers, dim, hidden, heads: depth, model width, feed-forward width, query heads.
        kv_heads: key/value heads; None means as many as `heads`.
        vocab: vocabulary size.
        sequence: tokens a sequence.
    """

    name: str
    layers: int
    dim: int
    hidden: int
    heads: int
    kv_heads: int | None = None
    vocab: int = 32768
    sequence: int = 4096

    def __post_init__(self) -> None:
        for field in ("layers", "dim", "hidden", "heads", "vocab", "sequence"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: got {getattr(self, field)}, need at least 1")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise ValueError(f"kv_heads: got {self.kv_heads}, need a divisor of heads ({self.heads})")

    @property
    def attention_parameters(self) -> float:
        """Weights of one layer's attention: query and output are M² each, key and value share M² x kv/heads."""
        return self.dim**2 * (2 + 2 * (self.kv_heads or self.heads) / self.heads)


# The paper prints sizes only; these shapes hit them within 1 % (vocabulary 32768, untied, one head per 128 dimensions).
SHAPES = {
    "1.6B": Shape("1.6B", 28, 2048, 5760, 16),
    "6.4B": Shape("6.4B", 30, 4096, 11008, 32),
    "12.6B": Shape("12.6B", 39, 5120, 13696, 40),
    "29.6B": Shape("29.6B", 54, 6656, 17920, 52),
}


def find_shape(shape: Shape | str) -> Shape:
    """A preset by name, or a `Shape` as it is. Raises UserError: no preset of this name."""
    if isinstance(shape, Shape):
        return shape
    if shape not in SHAPES:
        raise UserError(f"shape: got {shape!r}, need one of {', '.join(SHAPES)} or a Shape")
    return SHAPES[shape]


@dataclass(frozen=True)
class MoEPlacement:
    """Which feed-forwards become experts, and how tokens reach them.

    Attributes:
        num_experts: experts a sparse layer.
        every: one sparse layer in `every` layers (floor(layers / every) in all).
        top_k: experts a token chooses.
        capacity_factor: expert slots per token, top-k included (2.0 = two slots a token).
        hidden: an expert's width; None means the dense feed-forward's.
        dropless: no capacity: work follows `top_k` instead of `capacity_factor`.
        einsum_group: tokens a routing group when dispatch is a one-hot einsum; None means gather/scatter (no FLOPs).
    """

    num_experts: int = 256
    every: int = 4
    top_k: int = 2
    capacity_factor: float = 2.0
    hidden: int | None = None
    dropless: bool = False
    einsum_group: int | None = None

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ValueError(f"num_experts: got {self.num_experts}, need at least 1")
        if self.every < 1:
            raise ValueError(f"every: got {self.every}, need at least 1")
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k: got {self.top_k}, need 1..num_experts ({self.num_experts})")
        if not self.capacity_factor > 0:
            raise ValueError(f"capacity_factor: got {self.capacity_factor}, need a positive number")
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden: got {self.hidden}, need at least 1")
        if self.einsum_group is not None and self.einsum_group < 1:
            raise ValueError(f"einsum_group: got {self.einsum_group}, need at least 1 token")

    @property
    def slots(self) -> float:
        """Expert slots computed per token: the capacity factor, or k when nothing is dropped."""
        return float(self.top_k) if self.dropless else self.capacity_factor

    def layers(self, shape: Shape) -> int:
        """Sparse layers in this shape."""
        if self.every > shape.layers:
            raise ValueError(f"every: got {self.every}, need at most the layers of {shape.name} ({shape.layers})")
        return shape.layers // self.every

    def label(self, shape: Shape) -> str:
        """The paper's name of a sparse model, backbone/experts, e.g. 1.6B/256E."""
        return f"{shape.name}/{self.num_experts}E"


@dataclass(frozen=True)
class Parameters:
    """Counts by how a mesh splits them: `dense` over model, `experts` over expert and model, `router` never."""

    dense: float
    experts: float
    router: float
    active: float

    @property
    def total(self) -> float:
        return self.dense + self.experts + self.router


def parameters(shape: Shape | str, moe: MoEPlacement | None = None) -> Parameters:
    """Matrix parameters of the model (norms left out); `active` counts k experts a sparse layer."""
    shape = find_shape(shape)
    sparse = moe.layers(shape) if moe else 0
    dense = shape.layers * shape.attention_parameters + 2 * shape.vocab * shape.dim
    dense += (shape.layers - sparse) * 3 * shape.dim * shape.hidden
    if moe is None:
        return Parameters(dense, 0.0, 0.0, dense)
    expert = 3 * shape.dim * (moe.hidden or shape.hidden)
    router = sparse * shape.dim * moe.num_experts
    return Parameters(dense, sparse * moe.num_experts * expert, router, dense + router + sparse * moe.top_k * expert)


def forward_flops(shape: Shape | str, moe: MoEPlacement | None = None) -> float:
    """FLOPs of the forward pass per token (a training step takes 3 times as many).

    A multiply-add is 2 FLOPs; causal attention scores and values cost 2·S·M a token and layer.
    """
    shape = find_shape(shape)
    sparse = moe.layers(shape) if moe else 0
    flops = shape.layers * (2 * shape.attention_parameters + 2 * shape.sequence * shape.dim)
    flops += (shape.layers - sparse) * 6 * shape.dim * shape.hidden + 2 * shape.vocab * shape.dim
    if moe is not None:
        layer = 6 * shape.dim * (moe.hidden or shape.hidden) * moe.slots + 2 * shape.dim * moe.num_experts
        if moe.einsum_group is not None:
            layer += 4 * moe.einsum_group * moe.slots * shape.dim
        flops += sparse * layer
    return flops


def compute_ratio(shape: Shape | str, moe: MoEPlacement) -> float:
    """Step compute of the sparse model over its own dense backbone, no communication."""
    return forward_flops(shape, moe) / forward_flops(shape)


def overhead_bound(every: int, slots: float = 2.0, width: float = 1.0, ffn_share: float = 2 / 3) -> float:
    """Extra compute of a sparse model as a fraction of dense: (slots · width − 1) · ffn_share / every.

    Args:
        every: one sparse layer in `every`.
        slots: expert slots per token (capacity factor, or k when dropless).
        width: expert width over the dense feed-forward's.
        ffn_share: feed-forward's share of a layer's weights; 2/3 for hidden = 8/3 of dim (8M² of 12M²).
    Returns:
        The fraction, e.g. 1/3 for top-2 in every second layer and 1/6 in every fourth: a budget of 20 % asks for
        every fourth layer, half-width experts, or one slot a token.
    """
    if every < 1:
        raise ValueError(f"every: got {every}, need at least 1")
    return (slots * width - 1) * ffn_share / every


@dataclass(frozen=True)
class Mesh:
    """Sizes of the three axes; neighbours on `model` are closest, then `expert`, then `data`."""

    data: int = 1
    expert: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        for field in ("data", "expert", "model"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: got {getattr(self, field)}, need at least 1")

    @property
    def devices(self) -> int:
        return self.data * self.expert * self.model

    def __str__(self) -> str:
        return f"{self.data}x{self.expert}x{self.model}"


@dataclass(frozen=True)
class StepCost:
    """Seconds and bytes of one training step on one device.

    Attributes:
        compute_s: arithmetic at the hardware's MFU.
        all_to_all_s, model_axis_s: communication that nothing hides.
        data_axis_s: gradient reduction; `overlap` of it hides behind the backward pass.
        overlap: the hidden share, in [0, 1].
        all_to_all_bytes: bytes a device sends for the all-to-alls.
        memory_bytes: weights, optimizer and activations resident on one device.
        memory_limit: memory of the device.
    """

    compute_s: float
    all_to_all_s: float
    model_axis_s: float
    data_axis_s: float
    overlap: float
    all_to_all_bytes: float
    memory_bytes: float
    memory_limit: float

    @property
    def total_s(self) -> float:
        return self.compute_s + self.all_to_all_s + self.model_axis_s + (1 - self.overlap) * self.data_axis_s

    @property
    def fits(self) -> bool:
        return self.memory_bytes <= self.memory_limit


def step_cost(
    shape: Shape | str,
    moe: MoEPlacement | None,
    hardware: Hardware,
    mesh: Mesh,
    *,
    batch_tokens: int,
    overlap: float = 0.8,
    fully_sharded: bool = False,
) -> StepCost:
    """Cost of one training step on a mesh.

    Args:
        shape: the decoder's dimensions.
        moe: its sparse layers; None means dense (the expert axis is then one more data axis).
        hardware: the devices.
        mesh: sizes of the data, expert and model axes.
        batch_tokens: tokens of the whole batch.
        overlap: share of the gradient reduction hidden behind the backward pass, in [0, 1].
        fully_sharded: weights, gradients and optimizer split over their replicas (FSDP) instead of repeated.
    Returns:
        Seconds by term, and memory. Per device and step, with T_d = batch_tokens / (data·expert) tokens of b bytes:
        four all-to-alls a sparse layer of slots·T_d·M/model·b·(expert−1)/expert bytes; four all-reduces a layer over
        the model axis of 2·T_d·M·b·(model−1)/model; and for the gradients 2·b·parameters·(n−1)/n, where n is data for
        experts and data·expert for the rest (3 instead of 2 when sharded: weights are gathered twice).
    """
    shape = find_shape(shape)
    if not 0 <= overlap <= 1:
        raise ValueError(f"overlap: got {overlap}, need a share in [0, 1]")
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: got {batch_tokens}, need at least 1")
    count = parameters(shape, moe)
    width = hardware.bytes_per_element
    device_tokens = batch_tokens / (mesh.data * mesh.expert)
    compute_s = 3 * forward_flops(shape, moe) * batch_tokens / (mesh.devices * hardware.peak_flops * hardware.mfu)

    sparse, slots = (moe.layers(shape), moe.slots) if moe else (0, 0.0)
    token_bytes = device_tokens * shape.dim * width
    all_to_all_bytes = 4 * sparse * slots * token_bytes / mesh.model * (mesh.expert - 1) / mesh.expert
    model_bytes = 4 * shape.layers * 2 * token_bytes * (mesh.model - 1) / mesh.model
    replicas = mesh.data * mesh.expert
    resident_dense = count.dense / mesh.model + count.router
    resident_experts = count.experts / (mesh.expert * mesh.model)
    passes = 3 if fully_sharded else 2
    dense_bytes = passes * width * resident_dense * (replicas - 1) / replicas
    expert_bytes = passes * width * resident_experts * (mesh.data - 1) / mesh.data
    if fully_sharded:
        resident_dense, resident_experts = resident_dense / replicas, resident_experts / mesh.data
    return StepCost(
        compute_s=compute_s,
        all_to_all_s=all_to_all_bytes / hardware.bandwidth(mesh.model * mesh.expert),
        model_axis_s=model_bytes / hardware.bandwidth(mesh.model),
        data_axis_s=(dense_bytes + expert_bytes) / hardware.bandwidth(mesh.devices),
        overlap=overlap,
        all_to_all_bytes=all_to_all_bytes,
        memory_bytes=BYTES_PER_PARAMETER * (resident_dense + resident_experts)
        + activation_bytes(shape, moe, mesh, device_tokens, width),
        memory_limit=hardware.memory_bytes,
    )


def activation_bytes(shape: Shape, moe: MoEPlacement | None, mesh: Mesh, device_tokens: float, width: int) -> float:
    """Activations of one device with every layer checkpointed.

    Kept: each layer's input. Alive at once: the widest layer's own tensors (8·M, and 3·hidden a slot, split over the
    model axis) and the logits in float32 (split likewise).
    """
    hidden = float(shape.hidden)
    if moe is not None:
        hidden = max(hidden, moe.slots * (moe.hidden or shape.hidden))
    layer = (8 * shape.dim + 3 * hidden) * width / mesh.model
    return device_tokens * (shape.layers * shape.dim * width + layer + 4 * shape.vocab / mesh.model)


@dataclass(frozen=True)
class Gap:
    """What would turn a speed-up computed from FLOPs into the one reported, each cause alone.

    Attributes:
        computed, reported: dense step over sparse step, from FLOPs and from the clock.
        mfu_factor: the sparse model's MFU over dense's, communication free.
        communication_share: share of the sparse step spent in communication that nothing hides, MFU equal.
        communication_to_compute: the same seconds over the sparse step's compute.
    """

    computed: float
    reported: float

    @property
    def mfu_factor(self) -> float:
        return self.reported / self.computed

    @property
    def communication_share(self) -> float:
        return 1 - self.reported / self.computed

    @property
    def communication_to_compute(self) -> float:
        return self.computed / self.reported - 1

    def all_to_all_bandwidth(self, cost: StepCost) -> float:
        """Bytes/s a device at which the all-to-alls of `cost` take just the missing seconds."""
        return cost.all_to_all_bytes / (self.communication_to_compute * cost.compute_s)

    def __str__(self) -> str:
        return (
            f"computed {self.computed:.3f}x, reported {self.reported:.2f}x: "
            f"explained by {self.communication_share:.1%} of the sparse step in exposed communication, "
            f"or by {self.mfu_factor:.3f} of dense's MFU"
        )


def explain_speedup(
    dense: Shape | str = "6.4B",
    backbone: Shape | str = "1.6B",
    moe: MoEPlacement | None = None,
    reported: float = REPORTED_SPEEDUP,
) -> Gap:
    """The paper's headline, dense 6.4B over 1.6B/256E: 3.331x in FLOPs, 2.06x reported on hardware.

    Raises:
        ValueError: the reported speed-up is not positive or exceeds the computed one (no loss can explain that).
    """
    computed = forward_flops(dense) / forward_flops(backbone, moe or MoEPlacement())
    if not 0 < reported <= computed:
        raise ValueError(f"reported: got {reported}, need a speed-up in (0, {computed:.3f}], the one from FLOPs")
    return Gap(computed, reported)
