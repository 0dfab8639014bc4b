"""Parts of reinforcement learning: advantages, distributions over actions, running statistics."""
