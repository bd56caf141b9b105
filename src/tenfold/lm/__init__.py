"""Floor 2: language models. The decoder, its losses, generation, scoring and cost model."""
