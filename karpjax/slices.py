"""Tabulate which TPU slices and batch sizes a config fits, without a TPU.

    karpjax slices --config=poly --topologies=v5e:2x2,v6e:2x2 --batches=64,128 --plot=slices.png
    karpjax slices --config=poly --topologies=v5e:2x2                         # --batches=largest

largest: double the config's batch size until it no longer fits; halve it if it does not at first.
Each line is a compilation by `karpjax precompile`. The time of a step, and examples a second and
chip, are the compiler's estimate of a chip's own work, without the network (experiments/pods). A
rollout's examples are steps of its environments.
Exit codes: 0 something fits; 1 nothing does; 2 bad input. Also as python -m karpjax.slices.
"""
import functools
import pathlib

import jax

from karpjax.core import files, old_names
from karpjax.core.errors import UserError
from karpjax.precompile.slices import HEAD, LARGEST, batch_key, compiled, draw, line, until_it_turns
from karpjax.run import cli

PLOTS = (".png", ".svg", ".pdf")


def main(argv) -> int:
    jax.config.update("jax_platforms", "cpu")
    options = cli.parse(argv, __doc__, config=True, topologies=str, batches=LARGEST, plot="")
    given = options.batches.split(",")
    if options.batches != LARGEST and not all(text.isdigit() and int(text) for text in given):
        raise UserError(f"--batches={options.batches}: expected numbers with commas between them, "
                        f"as in 64,128, or {LARGEST}")
    plot = check_plot(files.local(options.plot, "--plot")) if options.plot else None
    print(HEAD)
    rows = []
    for topology in options.topologies.split(","):
        row_of = functools.partial(compiled, options, topology)
        if options.batches == LARGEST:
            own = until_it_turns(row_of, options.config.data[batch_key(options.config)])
        else:
            own = map(row_of, map(int, given))
        for row in own:
            rows.append(row)
            print(line(row), flush=True)
    if plot:
        draw(rows, plot)
    return 0 if any(row["fits"] for row in rows) else 1


def check_plot(file: pathlib.Path) -> pathlib.Path:
    """Return the file, if the plot can be written to it: before an hour of compiling."""
    if file.suffix not in PLOTS or not file.parent.is_dir():
        raise UserError(f"--plot={file}: expected a name that ends in {', '.join(PLOTS)}, in a "
                        "folder that is there")
    return file


__getattr__ = old_names.attributes("slices")

if __name__ == "__main__":
    cli.run(main)
