"""One train step: task, state, sharding, step, optimizer, and the settings they read."""
