"""Accelerators by the vendors' data sheets: peak rates and memory, for MFU and for precompile."""
import dataclasses

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
