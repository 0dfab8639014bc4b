"""Sources of stored records: on the device if they fit, else streamed from the host."""
from karpjax.core.errors import check_choice
from karpjax.datasets.tfds import read_columns, read_record
from karpjax.sources.arrays import Arrays
from karpjax.sources.loader import Loader
from karpjax.sources.source import Source

ON_DEVICE_BYTES = 2 << 30                                    # larger sets are streamed


def source_of(data, wanted: dict, records: dict, decode, row_bytes: int | None, classes: int = 0,
              **options) -> Source:
    """Return a source of stored records, in device memory or streamed from the host.

    data         config.data; its on_device "auto" takes device memory if the training split fits
    wanted       {"train": its split expression, ...}, for errors
    records      {"train": records by index, ...}
    decode       record -> {"image": ..., "label": ...}
    row_bytes    of a decoded row; None if rows are of many sizes
    classes      number of classes of "label", which `decode` has checked
    options      of Arrays and Loader: preprocess, view, augment, mix
    """
    on_device = data.get("on_device", "auto")
    check_choice(on_device, ("auto", "yes", "no"), "config.data.on_device")
    fits = row_bytes is not None and len(records["train"]) * row_bytes <= ON_DEVICE_BYTES
    names = {split: f"{data.name}/{wanted[split]}" for split in records}
    if on_device == "yes" or on_device == "auto" and fits:
        columns = {split: read_columns(rows, decode, names[split])
                   for split, rows in records.items()}
        return Arrays(columns.pop("train"), splits=columns, batch_size=data.batch_size,
                      classes=classes, **options)
    named = {split: NamedRecords(rows, names[split]) for split, rows in records.items()}
    return Loader(named.pop("train"), splits=named, decode=decode, batch_size=data.batch_size,
                  **options)


class NamedRecords:
    """Records whose errors name the data set and the record."""

    def __init__(self, rows, name):
        self.rows, self.name = rows, name

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return read_record(self.rows, i, self.name)
