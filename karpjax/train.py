"""Train what a config says: python -m karpjax.train --config=configs/digits_cnn.py --workdir=DIR [--config.steps=500 ...]

    --devices=8       simulate that many devices on the CPU
    --distributed     one of several processes, found from the environment (TPU pods, Slurm); or by hand
                      --coordinator=HOST:PORT --processes=N --process=I
    --join_seconds=300  how long they wait for each other

Starting it again with the same workdir goes on where it stopped. Exit codes: see karpjax/run/cli.py.
"""
from karpjax.run import cli


def main(argv):
    options = cli.parse(argv, __doc__, config=True, workdir=str, devices=0, coordinator="", processes=0, process=0,
                        distributed=False, join_seconds=300)
    cli.start_jax(**{name: options[name] for name in options if name not in ("config", "task_file", "workdir")})
    from karpjax.run.loop import fit
    summary = fit(options.config, options.workdir, task_file=options.task_file)
    results = {name: value for name, value in summary.items() if "/" in name or name in ("steps", "seconds")}
    cli.print_json(results)


if __name__ == "__main__":
    cli.run(main)
