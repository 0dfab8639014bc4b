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
    names = {split: f"{data.name}/{wanted[split]}" for split in records}
    if fits_device(data, None if row_bytes is None else len(records["train"]) * row_bytes):
        columns = {split: read_columns(rows, decode, names[split])
                   for split, rows in records.items()}
        return Arrays(columns.pop("train"), splits=columns, batch_size=data.batch_size,
                      classes=classes, **options)
    named = {split: NamedRecords(rows, names[split]) for split, rows in records.items()}
    return Loader(named.pop("train"), splits=named, decode=decode, batch_size=data.batch_size,
                  classes=classes, **options)


def fits_device(data, size: int | None) -> bool:
    """Return whether a training split is to be held in device memory, as its on_device says.

    size   bytes of the split; None: not known
    """
    on_device = data.get("on_device", "auto")
    check_choice(on_device, ("auto", "yes", "no"), "config.data.on_device")
    fits = size is not None and size <= ON_DEVICE_BYTES
    return on_device == "yes" or on_device == "auto" and fits


class NamedRecords:
    """Records whose errors name the data set and the record."""

    def __init__(self, rows, name):
        self.rows, self.name = rows, name

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return read_record(self.rows, i, self.name)
