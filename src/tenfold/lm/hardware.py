"""Accelerators that the planner knows: peak arithmetic, memory and link speeds, each with its source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tenfold.core.errors import UserError


@dataclass(frozen=True)
class Hardware:
    """One kind of device and the links between devices.

    Attributes:
        name: what tables print.
        peak_flops: dense matrix FLOP/s of one device at `bytes_per_element`.
        memory_bytes: memory of one device.
        node_devices: devices joined by the fast links.
        node_bandwidth: bytes/s a device sends inside a node, one direction.
        network_bandwidth: bytes/s a device sends to other nodes, one direction.
        mfu: share of `peak_flops` that training reaches, in (0, 1].
        bytes_per_element: of activations and gradients on the wire (2 = bfloat16).
        source: where the figures come from.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    node_devices: int
    node_bandwidth: float
    network_bandwidth: float
    mfu: float = 0.4
    bytes_per_element: int = 2
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("peak_flops", "memory_bytes", "node_devices", "node_bandwidth", "network_bandwidth"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field}: got {getattr(self, field)}, need a positive number")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu: got {self.mfu}, need a share in (0, 1]")
        if self.bytes_per_element not in (1, 2, 4, 8):
            raise ValueError(f"bytes_per_element: got {self.bytes_per_element}, need 1, 2, 4 or 8")

    def bandwidth(self, span: int) -> float:
        """Bytes/s of a collective over `span` neighbouring devices: the fast links if they stay in one node."""
        return self.node_bandwidth if span <= self.node_devices else self.network_bandwidth


# Model FLOP utilisation is not on a data sheet: 0.4 is the usual figure for dense pre-training (PaLM reports 46 %).
HARDWARE = {
    "h100": Hardware(
        "H100 SXM", 989.4e12, 80e9, 8, 450e9, 50e9,
        source="NVIDIA H100 data sheet (989.4 TFLOPS bfloat16 without sparsity, 80 GB, NVLink 900 GB/s both ways); "
        "DGX H100: one 400 Gb/s port a GPU",
    ),
    "h200": Hardware(
        "H200 SXM", 989.4e12, 141e9, 8, 450e9, 50e9,
        source="NVIDIA H200 data sheet (arithmetic and links of H100, 141 GB); DGX H200: one 400 Gb/s port a GPU",
    ),
    "a100": Hardware(
        "A100 SXM 80GB", 312e12, 80e9, 8, 300e9, 25e9,
        source="NVIDIA A100 data sheet (312 TFLOPS bfloat16, 80 GB, NVLink 600 GB/s both ways); "
        "DGX A100: one 200 Gb/s port a GPU",
    ),
    "tpu-v5p": Hardware(
        "TPU v5p", 459e12, 95 * 2**30, 8960, 600e9, 6.25e9,
        source="Google Cloud TPU v5p page (459 TFLOPS bfloat16, 95 GiB, inter-chip links 1200 GB/s both ways, "
        "8960 chips a pod, data-centre network 50 Gb/s a chip)",
    ),
    "tpu-v4": Hardware(
        "TPU v4", 275e12, 32 * 2**30, 4096, 300e9, 3.125e9,
        source="Google Cloud TPU v4 page (275 TFLOPS bfloat16, 32 GiB, six links of 50 GB/s each way, 4096 chips "
        "a pod); data-centre network assumed 25 Gb/s a chip",
    ),
    "cpu": Hardware(
        "laptop CPU", 1e11, 16e9, 1, 10e9, 1e8, mfu=0.5, bytes_per_element=4,
        source="round figures for two laptop cores in float32 and gigabit Ethernet, no data sheet",
    ),
}  # fmt: skip


def find_hardware(hardware: Hardware | str, **changes: float) -> Hardware:
    """A preset by name (or a `Hardware` as it is), with some fields changed, e.g. `mfu=0.5`.

    Raises:
        UserError: no preset of this name.
    """
    if isinstance(hardware, str):
        if hardware.lower() not in HARDWARE:
            raise UserError(f"hardware: got {hardware!r}, need one of {', '.join(HARDWARE)}")
        hardware = HARDWARE[hardware.lower()]
    return dataclasses.replace(hardware, **changes) if changes else hardware  # type: ignore[arg-type]
