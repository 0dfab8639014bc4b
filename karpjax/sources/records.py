"""Sources of stored records: on the device where they fit, else streamed from the host."""
from karpjax.core.errors import check_choice
from karpjax.datasets.tfds import read_all, read_record
from karpjax.sources.arrays import Arrays
from karpjax.sources.loader import Loader
from karpjax.sources.source import Source

ON_DEVICE_BYTES = 2 << 30                                    # larger sets are fed from the host


def source_of(data, wanted: dict, records: dict, decode, row_bytes: int | None, **options) -> Source:
    """A source of these records: in device memory where asked for or where they fit, else fed from the host.

    row_bytes    of a decoded row; None where rows are of many sizes
    """
    where = data.get("on_device", "auto")
    check_choice(where, ("auto", "yes", "no"), "config.data.on_device")
    fits = row_bytes is not None and len(records["train"]) * row_bytes <= ON_DEVICE_BYTES
    if where == "yes" or where == "auto" and fits:
        columns = {split: read_all(rows, decode, f"{data.name}/{wanted[split]}") for split, rows in records.items()}
        return Arrays(columns.pop("train"), splits=columns, batch_size=data.batch_size, **options)
    named = {split: Named(rows, f"{data.name}/{wanted[split]}") for split, rows in records.items()}
    return Loader(named.pop("train"), splits=named, decode=decode, batch_size=data.batch_size, **options)


class Named:
    """Records that say which one could not be read."""

    def __init__(self, rows, name):
        self.rows, self.name = rows, name

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return read_record(self.rows, i, self.name)
