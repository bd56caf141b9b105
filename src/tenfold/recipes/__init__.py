"""Floor 4: one recipe a paper; each reads top to bottom like the paper."""
