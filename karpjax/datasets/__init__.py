"""Data sets on disk: read and written in TFDS's format, imported from files."""
