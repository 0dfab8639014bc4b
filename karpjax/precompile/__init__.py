"""Compiling for a TPU slice that is not here: a program's memory, FLOPs and collectives."""
from karpjax.core import old_names

__getattr__ = old_names.attributes("precompile")
