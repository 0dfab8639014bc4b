"""PyTorch's side of a comparison (side_by_side.py): one training loop for every study's network."""
from collections.abc import Callable
import json
import os
import pathlib

import numpy as np
import torch
from torch import nn

from experiments.speed.harness import serve


def load(model: nn.Module, file: pathlib.Path, own: tuple[str, ...] = ()) -> None:
    """Give a network the arrays of a file by their names, all but its counters and its `own`."""
    arrays = {name: torch.from_numpy(array) for name, array in np.load(file).items()}
    missing, unexpected = model.load_state_dict(arrays, strict=False)
    own = (*own, "num_batches_tracked")
    assert not unexpected and all(any(part in name for part in own) for name in missing), \
        (missing, unexpected)


def adamw(model: nn.Module, weight_decay: float, b2: float = 0.999, slow: str = ""
          ) -> torch.optim.Optimizer:
    """Return AdamW as our configs have it: vectors do not decay.

    slow   names that begin so learn a tenth as fast
    """
    groups = {}  # few, or the optimizer's loop over them would take the time
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = 0.1 if slow and name.startswith(slow) else 1.0
            groups.setdefault((factor, weight_decay if p.dim() > 1 else 0.0), []).append(p)
    return torch.optim.AdamW(
        [{"params": params, "factor": factor, "weight_decay": decay}
         for (factor, decay), params in groups.items()], lr=0.0, betas=(0.9, b2), eps=1e-8)


def serve_training(folder: pathlib.Path, model: nn.Module, optimizer: torch.optim.Optimizer,
                   loss_of: Callable, rates: list[float], clip: float, versions: str = "",
                   measure: Callable = dict) -> None:
    """Train on request by loss_of(0), loss_of(1), ..., and write torch.json in the end.

    clip       the most of the gradient's norm
    versions   of other packages
    measure    () -> what torch.json holds beside the losses
    """
    torch.set_num_threads(os.cpu_count())  # as the other side, whatever OMP_NUM_THREADS says
    losses = []

    def step():
        i = len(losses)
        for group in optimizer.param_groups:
            group["lr"] = rates[i] * group["factor"]
        loss = loss_of(i)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())

    def run(steps):
        for _ in range(max(0, steps)):
            step()
        if steps < 0:
            (folder / "torch.json").write_text(json.dumps({**measure(), "losses": losses}))
    serve(run, f"torch {torch.__version__}, {versions}{torch.get_num_threads()} threads")
