"""Layers: plain modules that know nothing of meshes, files or tasks; import the others from the files that define them."""

from tenfold.nn.moe import MoE, MoEConfig

__all__ = ["MoE", "MoEConfig"]
