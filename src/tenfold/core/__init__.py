"""Floor 0: knows no model. Run folder, config, training loop, optimizers, checkpoints, streams, mesh, report."""
