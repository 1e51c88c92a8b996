"""How a system is trained: recipe, loss, loop, checkpoints."""
