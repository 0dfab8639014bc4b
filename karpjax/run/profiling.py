"""A profiler trace of a few steps, in WORKDIR/profile (for TensorBoard or Perfetto)."""
import jax


class Profile:
    """The trace of config.profile_steps steps from config.profile_at on, unless that is 0."""

    def __init__(self, config, workdir):
        self.start = config.profile_at
        self.stop = min(config.profile_at + config.profile_steps, config.steps)
        self.folder, self.running = workdir / "profile", False

    def before(self, step: int) -> None:
        """Start the trace if it begins at this step."""
        if self.start and self.start <= step < self.stop and not self.running:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, state) -> None:
        """Wait for the device and write the trace, if it ends by this step."""
        if self.running and step >= self.stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.running = False
