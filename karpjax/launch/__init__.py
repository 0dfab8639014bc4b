"""Start a run on many processes: on this machine (local.py) or on a TPU slice (tpu.py). python -m karpjax.launch --help"""
