"""Layers that several architectures share."""
from typing import Annotated

Natural = Annotated[int, "may be 0"]  # of a model's field: other whole numbers are sizes, from 1
