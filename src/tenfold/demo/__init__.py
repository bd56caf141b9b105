"""Floor 5: the web demo, a tab a recipe, from runs that are there. Its page needs the extra `demo`."""
