"""Runs of many processes: on this machine (local.py) or on a TPU slice (tpu.py)."""
