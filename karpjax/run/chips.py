"""Accelerators: whether a TPU may be here, and by the vendors' data sheets, rates and memory."""
import dataclasses
import glob
import importlib.util

import jax

from karpjax.core.errors import UserError
from karpjax.core.trees import first_line

TPU_FILES = ("/dev/accel*", "/dev/vfio/*")
PEAK_FLOPS = {  # per device, bf16 matrix units, from the vendors' data sheets
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12,
    "TPU v5": 459e12, "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip's memory and rates.

    memory      GiB that the compiler leaves to programs, as it reports when it refuses one; 16, 32,
                95 and 32 are sold
    peak        bf16 operations a second, by the data sheet
    clock       cycles a second of the compiler's estimate, at which the matrix units give that peak
                (experiments/pods)
    bandwidth   bytes a second of its memory, by the data sheet
    """
    memory: float
    peak: float
    clock: float
    bandwidth: float


CHIPS = {
    "v5e": Chip(15.75, 197e12, 1.503e9, 819e9),
    "v4": Chip(30.75, 275e12, 1.05e9, 1228e9),
    "v5p": Chip(95.74, 459e12, 1.75e9, 2765e9),
    "v6e": Chip(31.25, 918e12, 1.75e9, 1640e9),
}


def skip_absent_tpu() -> None:
    """Leave libtpu alone if no TPU is here and nobody chose a platform.

    Precompile needs it. jax would have it look for a TPU, and it prints a page if it finds none.
    """
    # A plugin, as CUDA's, may have devices: then jax must look for itself.
    other = jax.config.jax_platforms or importlib.util.find_spec("jax_plugins")
    if importlib.util.find_spec("libtpu") and not other and not any(map(glob.glob, TPU_FILES)):
        jax.config.update("jax_platforms", "cpu")


def check_platform() -> None:
    """Raise UserError if jax has no device of the platforms that JAX_PLATFORMS names."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # the first if it skipped a plugin
        reason = first_line(error).partition(" (set ")[0] or "nor a plugin that finds one"
        raise UserError(f"JAX_PLATFORMS={jax.config.jax_platforms}: jax has no such device here "
                        f"({reason}); leave it out, or use JAX_PLATFORMS=cpu") from error
