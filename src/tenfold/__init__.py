"""tenfold: ten published research systems as one PyTorch library."""

__version__ = "0.1.0"
