"""Which slices and batch sizes fit: a table, and a plot. Each line is a compilation by karpjax.precompile, without a TPU.

    python -m karpjax.slices --config=configs/poly.py --topologies=v5e:2x2,v6e:2x2 --batches=64,128 --plot=slices.png
    python -m karpjax.slices --config=configs/poly.py --topologies=v5e:2x2                  # --batches=largest

largest: the config's batch, then twice and twice that until a slice refuses; or the halves, until it does not.
The time of a step and examples a second and chip are of a chip's own work by the compiler's estimate, without the network
(experiments/pods). A rollout's examples are steps of its environments.
Exit codes: 0 something fits; 1 nothing does; 2 bad input.
"""
import jax

from karpjax.core import old_names
from karpjax.core.errors import UserError
from karpjax.precompile.slices import LARGEST, batch_key, compiled, draw, line, until_it_turns
from karpjax.run import cli


def main(argv) -> int:
    jax.config.update("jax_platforms", "cpu")
    options = cli.parse(argv, __doc__, config=True, topologies=str, batches=LARGEST, plot="")
    given = options.batches.split(",")
    if options.batches != LARGEST and not all(text.isdigit() and int(text) for text in given):
        raise UserError(f"--batches={options.batches}: expected numbers with commas between them, as in 64,128, or {LARGEST}")
    print(f"{'topology':<12}{'chips':>6}{'batch':>10}{'a chip':>10}{'memory':>16}{'fits':>6}{'a step':>14}{'a chip':>20}")
    rows = []
    for topology in options.topologies.split(","):
        row_of = lambda batch: compiled(options, topology, batch)
        found = until_it_turns(row_of, options.config.data[batch_key(options.config)]) if options.batches == LARGEST else \
            (row_of(int(batch)) for batch in given)
        for row in found:
            rows.append(row)
            print(line(row), flush=True)
    if options.plot:
        draw(rows, options.plot)
    return 0 if any(row["fits"] for row in rows) else 1


__getattr__ = old_names.attributes("slices")

if __name__ == "__main__":
    cli.run(main)
