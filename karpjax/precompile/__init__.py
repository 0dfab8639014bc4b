"""Programs compiled for a TPU slice that is not here."""
from karpjax.core import old_names

__getattr__ = old_names.attributes("precompile")
