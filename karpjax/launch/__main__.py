"""Launch training on several processes, on this machine or on a TPU slice.

    karpjax launch local --processes=2 --devices-per-process=4 \\
        --config=configs/digits_cnn.py --workdir=runs/two
    karpjax launch tpu --name=my-slice --type=v5litepod-256 --zone=us-west4-a \\
        --version=v2-alpha-tpuv5-lite [--spot] [--queued] [--dry-run] \\
        --config=configs/digits_cnn.py --workdir=gs://my-bucket/runs/digits

local   real processes of simulated devices on this machine's CPUs, as on a pod. Process 0 is shown.
        WORKDIR/logs has all. --port=N: of their coordinator (default: a free one); --grace=30:
        seconds that the others get when one has died
tpu     makes the slice if it is not there, copies what git tracks, runs on all workers, shows
        worker 0, and starts again after a preemption, --restarts=20 times at most. --dry-run prints
        the commands only

--config, --workdir and --join_seconds are those of `karpjax train`, as are exit codes
(karpjax/run/cli.py). On a cluster of Slurm or Kubernetes jax finds its processes itself:
karpjax train --distributed ... Also as python -m karpjax.launch.
"""
from karpjax.core.errors import UserError, did_you_mean
from karpjax.launch import local, tpu
from karpjax.run import cli

PLACES = {"local": local, "tpu": tpu}
TRAIN = ("config", "workdir", "join_seconds")  # flags of karpjax train; a place sets the others


def main(argv) -> int:
    if cli.HELP & set(argv):
        cli.print_forms(__doc__, {name: (False, place.FLAGS) for name, place in PLACES.items()})
        return 0
    place = PLACES.get(argv[0]) if argv else None
    if place is None:
        raise UserError(f"expected {' or '.join(PLACES)} first, found "
                        f"{repr(argv[0]) if argv else 'nothing'}; as in karpjax launch local "
                        "--processes=2 --config=configs/digits_cnn.py --workdir=runs/two")
    own, others = split_flags(argv[1:], place.FLAGS)
    return place.launch(cli.parse(own, __doc__, **place.FLAGS), others)


def split_flags(argv: list[str], flags: dict) -> tuple[list[str], list[str]]:
    """Return the launcher's own flags and those of karpjax train, or raise for any other."""
    # Here, and not by each process: a slip in --dry-run would make a slice.
    own, others = [], []
    for flag in argv:
        name = flag.split("=")[0].removeprefix("--")
        if not flag.startswith("--"):
            raise UserError(f"expected flags of the form --name=value, found {flag!r}")
        if name in flags:
            own.append(flag)
        elif name in TRAIN or name.startswith("config."):
            others.append(flag)
        else:
            raise UserError(f"--{name}: no such flag{did_you_mean(name, (*flags, *TRAIN))}")
    return own, others


if __name__ == "__main__":
    cli.run(main)
