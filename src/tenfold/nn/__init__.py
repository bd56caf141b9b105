"""Floor 1: layers. Attention, feed-forward, norms, rotary positions, mixtures of experts."""
