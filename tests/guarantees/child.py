"""One run of a registered task, for tests that kill it. `--mutant` breaks it on purpose: its test
must then fail.

    python -m guarantees.child --task=digits --workdir=DIR [--slow=0.05] [--mutant=NAME] ...
"""
import time

from karpjax.run import cli


def main(argv):
    options = cli.parse(argv, __doc__, task=str, workdir=str, mutant="", slow="0", devices=0,
                        coordinator="", processes=0, process=0, steps=12, hang_timeout=0)
    cli.start_jax(options.devices, options.coordinator, options.processes, options.process)
    from guarantees.registry import config_of
    import jax

    from karpjax.run import checkpoint, loop
    config, task_file = config_of(options.task, steps=options.steps,
                                  hang_timeout=options.hang_timeout)
    # Drawing takes seconds, and no guarantee looks at it.
    loop.pictures.curves = loop.pictures.show = lambda *drawn: None
    if options.mutant:
        MUTANTS[options.mutant](checkpoint, jax)

    def say(step, row):
        print("row", step, flush=True)
        time.sleep(float(options.slow))
    loop.fit(config, options.workdir, task_file=task_file, on_metrics=say)
    return 0


def key_not_saved(checkpoint, jax):
    """Let a restored run draw new keys."""
    restore = checkpoint.from_tree
    checkpoint.from_tree = lambda tree, like: restore(tree, like).replace(
        key=jax.random.key(time.time_ns() % 2**31))


def position_not_saved(checkpoint, jax):
    """Let a restored run start its data, or its environments, from the beginning."""
    from karpjax.run.experiment import Experiment
    restore, fresh = checkpoint.Checkpoints.restore, {}
    init = Experiment.__init__

    def remember(self, *args, **kwargs):
        init(self, *args, **kwargs)
        fresh["source"] = self.fresh_state().source
    Experiment.__init__ = remember

    def forget(self, abstract, **kwargs):
        restored = restore(self, abstract, **kwargs)
        return restored and (restored[0].replace(source=fresh["source"]), restored[1])
    checkpoint.Checkpoints.restore = forget


def rows_not_cut(checkpoint, jax):
    """Leave metrics.jsonl as it is, not cut back to the checkpoint's step."""
    from karpjax.run import metrics
    writer = metrics.Writer.__init__
    metrics.Writer.__init__ = lambda self, workdir, **options: writer(self, workdir, upto=10**9)


def best_forgotten(checkpoint, jax):
    """Let a restored run forget how good its older checkpoints were."""
    checkpoint.Checkpoints._stored_metrics = lambda self: {}


def keyed_by_process(checkpoint, jax):
    """Let random draws for an example depend on the process that makes them."""
    from karpjax.sources import source
    keys = source.example_keys
    source.example_keys = lambda key, index: keys(jax.random.fold_in(key, jax.process_count()),
                                                  index)


MUTANTS = {f.__name__: f for f in (key_not_saved, position_not_saved, rows_not_cut, best_forgotten,
                                   keyed_by_process)}

if __name__ == "__main__":
    cli.run(main)
