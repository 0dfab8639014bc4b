"""TensorBoard's event files: numbers by name and step, without TensorFlow, torch or tensorboard.

A file is TFRecords (length, its checksum, data, its checksum) of `Event` messages
(tensorflow/core/util/event.proto). Only the four fields of a scalar are needed, so the protocol
buffers are written by hand.
"""
import pathlib
import socket
import struct
import time

import numpy as np


class Events:
    """A new event file in a folder, buffered until flush."""

    def __init__(self, folder):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self.file = open(pathlib.Path(folder) / name, "wb")
        self._record(field(3, b"brain.Event:2"))  # the version, which readers expect first

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Append the scalars of a step, by name."""
        with np.errstate(over="ignore"):  # beyond float32: infinity
            values = b"".join(field(1, field(1, name.encode()) + b"\x15" +
                                    np.array(value, "<f4").tobytes())
                              for name, value in scalars.items())
        self._record(b"\x10" + varint(step) + field(5, values))

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def _record(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self.file.write(length + masked_crc(length) + event + masked_crc(event))


def field(number: int, data: bytes) -> bytes:
    """Return a field of text, bytes or a message, encoded."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(n: int) -> bytes:
    """Return n >= 0 in groups of seven bits, the lowest first."""
    groups = []
    while n > 127:
        groups.append(n & 127 | 128)
        n >>= 7
    return bytes([*groups, n])


def masked_crc(data: bytes) -> bytes:
    """Return the CRC-32C of the data, rotated and shifted as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _table() -> list[int]:
    """Return the table of Castagnoli's polynomial, bits reversed."""
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = _table()
