"""Training: data, updates, checkpoints, best model, run folder."""
