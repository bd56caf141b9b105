"""Floor 3: smaller models from larger ones. Pruning of feed-forward layers, distillation, palettization."""
