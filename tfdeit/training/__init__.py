"""Training: recipes, losses, optimizers, the training step, checkpoints, and the loop around them."""
