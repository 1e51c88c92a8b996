"""Training of models: recipes, losses, optimizers, the loop and run folders."""
