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
        worker 0, and starts again after a preemption. --dry-run prints the commands only

Every other flag is that of `karpjax train`. On a cluster of Slurm or Kubernetes jax finds its
processes itself: karpjax train --distributed ... Exit codes are those of `karpjax train`
(karpjax/run/cli.py). Also as python -m karpjax.launch.
"""
from karpjax.core.errors import UserError
from karpjax.launch import local, tpu
from karpjax.run import cli

PLACES = {"local": local, "tpu": tpu}


def main(argv) -> int:
    place = PLACES.get(argv[0]) if argv else None
    if place is None and not {"-h", "--help"} & set(argv):
        raise UserError(f"expected {' or '.join(PLACES)} first, found "
                        f"{repr(argv[0]) if argv else 'nothing'}; as in karpjax launch local "
                        "--processes=2 --config=configs/digits_cnn.py --workdir=runs/two")
    if place is None:
        return cli.parse(argv, __doc__)
    own, others = [], []
    for flag in argv[1:]:
        is_own = flag.startswith("--") and flag[2:].split("=")[0] in place.FLAGS
        (own if is_own else others).append(flag)
    return place.launch(cli.parse(own, __doc__, **place.FLAGS), others)


if __name__ == "__main__":
    cli.run(main)
