"""What a run is: its experiment, programs, loop, workdir, checkpoints and metrics."""
