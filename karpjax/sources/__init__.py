"""Sources of batches: `arrays` for your own data, `images`, `text`, ... for sets by name."""
from karpjax.core import old_names
from karpjax.sources.arrays import Arrays
from karpjax.sources.arrays import Arrays as arrays
from karpjax.sources.boxes import boxes
from karpjax.sources.causal import causal
from karpjax.sources.images import images
from karpjax.sources.loader import Loader
from karpjax.sources.masks import masks
from karpjax.sources.pairs import pairs
from karpjax.sources.rollout import Rollout
from karpjax.sources.self_play import SelfPlay
from karpjax.sources.source import Source
from karpjax.sources.text import text

__all__ = ["Arrays", "Loader", "Rollout", "SelfPlay", "Source", "arrays", "boxes",
           "causal", "images", "masks", "pairs", "text"]
__getattr__ = old_names.attributes("sources")
