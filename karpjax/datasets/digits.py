"""The UCI handwritten digits as a TFDS set, made from a 45 kB file in the package, offline.

They are the test part of "Optical Recognition of Handwritten Digits", as scikit-learn distributes
it (Alpaydin and Kaynak 1998, UCI Machine Learning Repository, CC BY 4.0). There are 1,797 images of
8 x 8 pixels with values 0 to 16. UCI's training part is not among them, so the split is our own.
It is a fixed random order with writers mixed: 1,297 train, 200 validation, 300 test.
"""
import pathlib

import numpy as np
import tensorflow_datasets as tfds

FILE = pathlib.Path(__file__).parent.parent / "data" / "digits.npz"
SPLITS = {"train": (0, 1297), "validation": (1297, 1497), "test": (1497, 1797)}


class Digits(tfds.core.GeneratorBasedBuilder):
    """UCI handwritten digits, 8 x 8."""
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10)}))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(*bounds) for split, bounds in SPLITS.items()}

    def _generate_examples(self, start, stop):
        with np.load(FILE) as file:
            order = np.random.default_rng(0).permutation(len(file["label"]))[start:stop]
            for i in order:
                yield int(i), {"image": file["image"][i], "label": int(file["label"][i])}
