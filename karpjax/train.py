"""Train what a config says.

    karpjax train --config=configs/digits_cnn.py --workdir=DIR [--config.steps=500 ...]
    python -m karpjax.train --config=...                      # the same

    --devices=8         simulate that many devices on the CPU
    --distributed       one of several processes, found from the environment (TPU pods, Slurm); or
                        by hand --coordinator=HOST:PORT --processes=N --process=I
    --join_seconds=300  how long the processes wait for each other

Started again with the same workdir, it goes on where it stopped.
Exit codes: see karpjax/run/cli.py.
"""
from karpjax.core.errors import UserError
from karpjax.run import cli


def main(argv):
    options = cli.parse(argv, __doc__, config=True, workdir=str, devices=0, coordinator="",
                        processes=0, process=0, distributed=False, join_seconds=300)
    check_processes(options)
    cli.start_jax(options.devices, options.coordinator, options.processes, options.process,
                  options.distributed, options.join_seconds)
    from karpjax.run.loop import fit  # imports Orbax: after bad input is refused
    summary = fit(options.config, options.workdir, task_file=options.task_file)
    cli.print_json({name: value for name, value in summary.items()
                    if "/" in name or name in ("steps", "seconds")})


def check_processes(options) -> None:
    """Check the flags of one of several processes, which must come together."""
    # Without the coordinator each process would train alone, all in one workdir.
    if options.coordinator and not 0 <= options.process < options.processes:
        raise UserError("--coordinator: expected with it --processes=N and --process=I from 0 to "
                        f"N - 1, found {options.processes} and {options.process}")
    if (options.processes or options.process) and not options.coordinator:
        raise UserError("--processes, --process: expected --coordinator=HOST:PORT with them; give "
                        "it, or start all processes by karpjax launch local --processes=N")


if __name__ == "__main__":
    cli.run(main)
