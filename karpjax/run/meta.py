"""The JSON beside a checkpoint's state: what it must hold, and the hash that seals it.

    WORKDIR/checkpoints/STEP/meta/metadata, or NAME.json beside an exported NAME.safetensors

It decides how the arrays are read, so a changed bit in it must be noticed as one in them is. The
seal is the SHA-256 of all the rest, as sorted JSON. Checkpoints of karpjax 0.1 have none.
"""
import json

from etils import epath

from karpjax.core import old_names
from karpjax.core.errors import Damaged, UserError, storage
from karpjax.core.trees import first_line
from karpjax.datasets.content import hash_of

SCHEMA = 2  # 1: a moving average of the parameters has no statistics of its own
FOLDER = "checkpoints"
LIVE_STATISTICS = ("an older karpjax saved a moving average of the parameters alone; the "
                   "statistics of the network as it was trained stand for the average's")
EXPORTED = ".safetensors"
SEAL = "sha256"
REQUIRED = {"schema": int, "step": int, "config": dict, "task": dict, "dispatch": str,
            "fingerprint": dict, "shapes": dict, "metrics": (dict, type(None)), "seconds": dict}
OPTIONAL = {"source": (dict, type(None)), "versions": dict, "rows": int, "rows_sha256": str,
            SEAL: str}


def sealed(meta: dict) -> dict:
    """Return the meta as JSON gives it back, with the seal of all of it."""
    values = json.loads(json.dumps({key: meta[key] for key in meta if key != SEAL}))
    return {**values, SEAL: seal(values)}


def seal(values: dict) -> str:
    """Return the SHA-256 of a meta without its seal."""
    return hash_of({key: values[key] for key in values if key != SEAL})


def is_exported(path) -> bool:
    """Return whether a path is NAME.safetensors with NAME.json, read below like a checkpoint."""
    path = epath.Path(path)
    return path.suffix == EXPORTED and path.exists() and path.with_suffix(".json").exists()


def read_meta(folder) -> dict:
    """Return the JSON beside a checkpoint's state, its config by today's keys.

    Raises Damaged if it is not what was written, and UserError if it is of a later karpjax, or its
    folder was given another step's number.
    """
    folder = epath.Path(folder)
    try:
        with storage(folder):
            exported = is_exported(folder)
            file = folder.with_suffix(".json") if exported else folder / "meta" / "metadata"
            meta = json.loads(file.read_text())
        check_whole(meta)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise Damaged(f"{folder}: its JSON cannot be read ({first_line(error)}); restore another "
                      "checkpoint") from error
    if meta["schema"] > SCHEMA:
        raise UserError(f"{folder}: checkpoint schema {meta['schema']}, this karpjax knows up to "
                        f"{SCHEMA}; upgrade karpjax")
    number = folder.name if folder.parent.name == FOLDER and folder.name.isdigit() else ""
    if number not in ("", str(meta["step"])):
        raise UserError(f"{folder} holds step {meta['step']}, not {number}; move it out of "
                        f"{folder.parent}, or give it its own number")
    return {**meta, "config": old_names.today(meta.get("config", {}))}


def evaluated(meta: dict) -> tuple[str, str]:
    """Return the entries of a state that evaluation sees: parameters, and the model's state."""
    if not meta["config"].get("ema_decay"):
        return "params", "model_state"
    return "ema", "model_state" if meta["schema"] < 2 else "ema_state"


def check_whole(meta) -> None:
    """Raise ValueError unless a meta is what was written, as far as it can tell."""
    if not isinstance(meta, dict):
        raise ValueError(f"expected a dict, found {type(meta).__name__}")
    if SEAL in meta and meta[SEAL] != seal(meta):
        raise ValueError("its checksum differs")
    for key, kind in (REQUIRED | OPTIONAL).items():
        required = key in (REQUIRED if SEAL not in meta else ("schema", "step"))
        if key not in meta and required:
            raise ValueError(f"it lacks {key!r}")
        if key in meta and not isinstance(meta[key], kind):
            raise ValueError(f"its {key!r} is of {type(meta[key]).__name__}")
    # A key that is misspelt by damage, perhaps the seal's own. With a seal all is as written.
    if SEAL not in meta and (unknown := set(meta) - {*REQUIRED, *OPTIONAL}):
        raise ValueError(f"unknown keys {sorted(unknown)}, and no checksum")
