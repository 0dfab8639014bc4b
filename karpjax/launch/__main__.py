"""Train what a config says on several processes; every other flag is karpjax.train's.

    python -m karpjax.launch local --processes=2 --devices-per-process=4 --config=configs/digits_cnn.py --workdir=runs/two
    python -m karpjax.launch tpu --name=my-slice --type=v5litepod-256 --zone=us-west4-a --version=v2-alpha-tpuv5-lite \\
        --config=configs/digits_cnn.py --workdir=gs://my-bucket/runs/digits [--spot] [--queued] [--dry-run]

local   real processes of simulated devices on this machine's CPUs, as on a pod. Process 0 is shown; WORKDIR/logs has all.
        --port=N for their coordinator (default: a free one), --grace=30: seconds that the others get when one has died
tpu     makes the slice if it is not there, copies what git tracks, runs on all workers, shows worker 0, and starts again after
        a preemption. --dry-run prints the commands, and runs nothing

On a cluster of Slurm or Kubernetes jax finds its processes itself: python -m karpjax.train --distributed ... (README.md).
Exit codes are those of karpjax.train (karpjax/run/cli.py).
"""
from karpjax.core.errors import UserError
from karpjax.launch import local, tpu
from karpjax.run import cli

PLACES = {"local": local, "tpu": tpu}


def main(argv) -> int:
    place = PLACES.get(argv[0]) if argv else None
    if place is None and not {"-h", "--help"} & set(argv):
        raise UserError(f"expected {' or '.join(PLACES)} first, found {repr(argv[0]) if argv else 'nothing'}; as in python -m "
                        "karpjax.launch local --processes=2 --config=configs/digits_cnn.py --workdir=runs/two")
    if place is None:
        return cli.parse(argv, __doc__)
    is_own = lambda flag: flag.startswith("--") and flag[2:].split("=")[0] in place.FLAGS
    options = cli.parse([flag for flag in argv[1:] if is_own(flag)], __doc__, **place.FLAGS)
    return place.launch(options, [flag for flag in argv[1:] if not is_own(flag)])


if __name__ == "__main__":
    cli.run(main)
