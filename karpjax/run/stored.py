"""The arrays of a checkpoint as Orbax reads them, and a look at one just written."""
import contextlib

from etils import epath
import numpy as np
import orbax.checkpoint as ocp

from karpjax.core.errors import UserError, storage
from karpjax.core.trees import first_line
from karpjax.run.meta import read_meta


def read_part(folder, item: dict, restore_args: dict) -> dict:
    """Return some entries of a checkpoint's state."""
    try:
        with storage(folder):
            return read_state(folder, ocp.PyTreeCheckpointHandler(), ocp.args.PyTreeRestore(
                item=item, restore_args=restore_args, partial_restore=True))
    except UserError:  # an outage, a full disk
        raise
    except Exception as error:  # Orbax and TensorStore report damage and shapes in many ways
        raise UserError(f"{folder}: cannot be loaded ({first_line(error)}); it is damaged, or of a "
                        "model of other shapes") from error


def read_state(folder, handler, args) -> dict:
    """Return what a handler of Orbax's reads of a checkpoint's state."""
    # Not by its Checkpointer, which ends in a barrier: if one process raises, all others hang.
    with contextlib.closing(handler):
        return handler.restore(epath.Path(folder) / "state", args=args)


def check_opens(folder) -> None:
    """Check that a checkpoint just written can be read: its JSON, and one number of its state."""
    meta = read_meta(folder)
    state = read_part(folder, {"step": np.int32(0)},
                      {"step": ocp.RestoreArgs(restore_type=np.ndarray)})
    if int(state["step"]) != meta["step"]:
        raise UserError(f"{folder}: written at step {meta['step']}, it reads {state['step']}")
