"""Training: recipes, losses, optimizers, loops, and masked image modelling."""
