"""Files of weights as other projects leave them.

    arrays = read_arrays("resnet20.safetensors")          # or .npz, .pth, .pt, .th, .bin
    arrays = read_arrays("model.safetensors.index.json")  # a list of files, all beside it

Pickles are read by PyTorch alone, with weights_only: an unpickled file can run anything. One that
holds several state dicts, as a training script's {"state_dict": ..., "state_dict_ema": ...}, gives
the arrays of all, as {"state_dict::conv1.weight": ...}.
"""
import argparse
import json
import pathlib
import re

import numpy as np

from karpjax.core import files
from karpjax.core.errors import UserError
from karpjax.core.files import KINDS
from karpjax.core.trees import first_line, listed

PICKLES = (".pth", ".pt", ".th", ".bin")
SUFFIXES = KINDS + PICKLES
INDEX = ".index.json"
PART = "::"                           # stands between the name of a part and that of an array
POINTER = b"version https://git-lfs"  # begins the note that Git LFS leaves in a file's place


def is_weights(path: pathlib.PurePath) -> bool:
    """Return whether a path has the name of a file of weights."""
    return path.suffix in SUFFIXES or path.name.endswith(INDEX)


def read_arrays(path) -> dict[str, np.ndarray]:
    """Return {name: array} of a file, its kind known by its suffix."""
    path = files.local(path, "weights")
    expected = f"expected a file of weights, {', '.join(SUFFIXES)}, or its *{INDEX}"
    if path.is_dir():
        inside = sorted(each.name for each in path.iterdir() if is_weights(each))
        raise UserError(f"{path}: {expected}; found a folder, which has {listed(inside)}; "
                        "give one of them")
    if not is_weights(path):
        raise UserError(f"{path}: {expected}; found the suffix {path.suffix!r}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; {expected}")
    part = re.search(r"-\d+-of-(\d+)\.", path.name)
    if part and int(part[1]) > 1:
        raise UserError(f"{path}: expected all of the weights, found one of {int(part[1])} parts; "
                        f"give the file beside it that lists them, *{INDEX}")
    return read_listed(path) if path.name.endswith(INDEX) else read_one(path)


def read_one(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of one file that is there."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(f"{path}: expected weights, found Git LFS's note of where they are; "
                            "run git lfs pull there")
    return read_pickle(path) if path.suffix in PICKLES else files.read_arrays(path)


def read_listed(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of all files that an index lists."""
    try:
        place = json.loads(path.read_text())["weight_map"]
        parts = sorted(set(place.values()))
        elsewhere = [part for part in parts if pathlib.PurePath(part).name != part]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected JSON with a weight_map of {{array: file}}, found none "
                        f"({first_line(error)}); get the file again") from error
    if elsewhere:
        raise UserError(f"{path}: expected files beside it, found {elsewhere[0]!r}; "
                        "get the file again")
    gone = [part for part in parts if not (path.parent / part).is_file()]
    if gone:
        raise UserError(f"{path}: lists {len(parts)} files, of which {listed(gone)} "
                        f"{'is' if len(gone) == 1 else 'are'} not beside it; get all of them")
    arrays = {}
    for part in parts:
        arrays |= read_one(path.parent / part)
    lacking = sorted(set(place) - set(arrays))
    if lacking:
        raise UserError(f"{path}: its files lack {listed(lacking)}; get all of them again")
    return {name: arrays[name] for name in place}


def read_pickle(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read torch.save's file of a state dict, or of a dict of state dicts as scripts leave it."""
    try:
        import torch
    except ImportError as error:
        script = (
            f"import numpy, torch; d = torch.load('{path.name}', 'cpu', weights_only=True); "
            f"numpy.savez('{path.stem}.npz', "
            "**{k: v.numpy() for k, v in d.get('state_dict', d).items()})")
        raise UserError(f"{path}: a {path.suffix} file is read by PyTorch, and there is none here; "
                        "pip install torch, or make an .npz of it on a machine that has it: "
                        f"python -c \"{script}\"") from error
    try:
        if hasattr(torch, "serialization"):  # scripts store their flags beside the weights
            torch.serialization.add_safe_globals([argparse.Namespace])
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and PyTorch each have their own
        raise UserError(f"{path}: torch.load(..., weights_only=True) cannot read it "
                        f"({first_line(error)}); expected a state dict, as "
                        "torch.save(model.state_dict(), FILE) writes") from error

    def as_numpy(tensor):
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has none
        return tensor.detach().numpy()
    tensors = tensors_of(loaded, torch.is_tensor, path)
    with files.in_one_line(path, path.suffix, "save dense tensors"):
        return {name: as_numpy(tensor) for name, tensor in tensors.items()}


def tensors_of(loaded, is_tensor, where) -> dict:
    """Return {name: tensor} of a state dict, or of the state dicts in a dict.

    If there are several, each name begins with its part's.
    """
    def is_state_dict(value) -> bool:
        return isinstance(value, dict) and bool(value) and all(
            isinstance(name, str) and is_tensor(x) for name, x in value.items())

    if is_state_dict(loaded):
        return loaded
    entries = loaded.items() if isinstance(loaded, dict) else ()
    parts = {str(key): value for key, value in entries if is_state_dict(value)}
    if not parts:
        raise UserError(f"{where}: expected a state dict {{name: tensor}}, found "
                        f"{type(loaded).__name__}; save model.state_dict() and convert that")
    if len(parts) == 1:
        return next(iter(parts.values()))
    return {f"{key}{PART}{name}": tensor for key, part in parts.items()
            for name, tensor in part.items()}
