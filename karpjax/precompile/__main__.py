"""Does it fit a TPU slice? Compile a config's train program for one, on any Linux machine, without a TPU.

    python -m karpjax.precompile --config=configs/digits_cnn.py --topology=v5e:4x4 [--config.data.batch_size=1024 ...]

What is compiled is the program the loop runs, by the TPU's own compiler (libtpu): sizes and collectives are the compiler's.
What does not fit is told a change that would, after compiling that. The time of a step is the compiler's estimate of a chip's
own work, loops as often as they turn, without the network (experiments/pods).
Topologies: v5e:16x16, v6e:4x4, v4:2x2x1, v5p:2x2x2, ... Exit codes: 0 fits; 1 does not fit; 2 bad input.
"""
import jax

from karpjax.precompile.compile import precompile, suggest
from karpjax.run import cli


def main(argv) -> int:
    jax.config.update("jax_platforms", "cpu")  # before anything runs: a TPU that is here is none of this command's business
    options = cli.parse(argv, __doc__, config=True, topology=str)
    report = precompile(options.config, options.task_file, options.topology)
    size = lambda n: f"{n / 2**20:,.1f} MiB"
    print(f"program      {report['program']}\nflops        {report['flops']:,.0f} a step on all chips, without its source")
    held = {**report["state"], "data": report["data"]}
    print("a chip holds", ", ".join(f"{name} {size(n)}" for name, n in held.items() if n))
    if "refused" in report:
        print("does not fit", report["refused"])
        suggest(options, report)
        return 1
    moved = [f"{kind} {n:,.4g} ({size(b)})" for kind, (n, b) in report["collectives"].items()]
    print(f"compiled     in {report['seconds']:.1f} s")
    print(f"collectives  {', '.join(moved) or 'none'} a step")
    print("memory      ", ", ".join(f"{name} {size(n)}" for name, n in report["memory"].items()))
    if step := report.get("step"):
        print(f"one step     {1000 * step['seconds']:,.3f} ms of a chip's own work by the compiler's estimate, "
              f"{step['examples'] / step['seconds']:,.0f} examples a second at most; what collectives take is not in it")
        if "intensity" in step:
            print(f"intensity    {step['intensity']:,.1f} operations a byte; below {step['ridge']:,.0f} memory is the limit")
    else:
        print("one step     not estimated: there is a loop in it of which the program does not say how often it turns")
    print(f"{'fits' if report['fits'] else 'does not fit':<12} {size(sum(report['memory'].values()))} a chip of "
          f"{size(report['usable'])}")
    if not report["fits"]:
        suggest(options, report)
    return 0 if report["fits"] else 1


if __name__ == "__main__":
    cli.run(main)
