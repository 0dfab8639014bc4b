"""What reinforcement learning adds to a step: advantages, distributions over actions, running statistics."""
