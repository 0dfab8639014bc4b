"""Where batches come from. `arrays` for your own data, `images` for TFDS by name, `Rollout` for environments."""
from karpjax.core import old_names
from karpjax.sources.arrays import Arrays
from karpjax.sources.arrays import Arrays as arrays
from karpjax.sources.images import images
from karpjax.sources.loader import Loader
from karpjax.sources.rollout import Rollout
from karpjax.sources.self_play import SelfPlay
from karpjax.sources.source import Source
from karpjax.sources.text import text

__getattr__ = old_names.attributes("sources")
