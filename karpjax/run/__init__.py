"""A run: its experiment, programs, loop, workdir, checkpoints and metrics."""
