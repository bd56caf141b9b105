"""Text-to-image diffusion transformers with experts that choose their tokens (EC-DiT, arXiv 2410.02098).

Names are loaded when first used: importing the package costs nothing.
"""

from tenfold.core.lazy import lazy

_HOME = {
    "ECDiT": "transformer",
    "ECDiTConfig": "config",
    "paper_config": "config",
    "from_pixart": "pixart",
    "to_pixart": "pixart",
    "rectified_flow_loss": "flow",
    "interpolate": "flow",
    "velocity": "flow",
    "ddpm_loss": "ddpm",
    "sample": "sampling",
    "allocation_map": "allocation",
    "save_heatmaps": "allocation",
    "param_report": "reports",
    "flop_report": "reports",
    "Codec": "codec",
    "PixelCodec": "codec",
    "KLCodec": "codec",
}

__all__ = list(_HOME)


__getattr__ = lazy(__name__, _HOME)
