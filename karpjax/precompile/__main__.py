"""Precompile a config for a TPU slice, without a TPU: does it fit?

    karpjax precompile --config=digits_cnn --topology=v5e:4x4 [--config.data.batch_size=1024 ...]

It compiles the program that the loop runs, by the TPU's own compiler (libtpu), on any Linux
machine: sizes and collectives are the compiler's. If it does not fit, a change that does is
searched for and compiled. The time of a step is the compiler's estimate of a chip's own work,
loops as often as they turn, without the network (experiments/pods). Topologies: v5e:16x16,
v6e:4x4, v4:2x2x1, v5p:2x2x2, ... Exit codes: 0 fits; 1 does not fit; 2 bad input. Also as python
-m karpjax.precompile.
"""
import jax

from karpjax.precompile.compile import precompile, suggest
from karpjax.run import cli


def main(argv) -> int:
    # Before anything runs: a TPU that is here is none of this command's business.
    jax.config.update("jax_platforms", "cpu")
    options = cli.parse(argv, __doc__, config=True, topology=str)
    report = precompile(options.config, options.task_file, options.topology)
    print_report(report)
    if not report["fits"]:
        suggest(options, report)
    return 0 if report["fits"] else 1


def print_report(report: dict) -> None:
    """Print what the compiler reports of a program (see compile.precompile)."""
    print(f"program      {report['program']}")
    print(f"flops        {report['flops']:,.0f} a step on all chips, without its source")
    print("a chip holds", sizes({**report["state"], "data": report["data"]}))
    if "refused" in report:
        print("does not fit", report["refused"])
        return
    moved = [f"{kind} {n:,.4g} ({mebibytes(size)})"
             for kind, (n, size) in report["collectives"].items()]
    print(f"compiled     in {report['seconds']:.1f} s")
    print(f"collectives  {', '.join(moved) or 'none'} a step")
    print("memory      ", sizes(report["memory"]))
    if step := report.get("step"):
        rate = step["examples"] / step["seconds"]
        print(f"one step     {1000 * step['seconds']:,.3f} ms of a chip's own work by the "
              f"compiler's estimate, {rate:,.0f} examples a second at most; what collectives take "
              "is not in it")
        if "intensity" in step:
            print(f"intensity    {step['intensity']:,.1f} operations a byte; "
                  f"below {step['ridge']:,.0f} memory is the limit")
    else:
        print("one step     not estimated: there is a loop in it of which the program does not say "
              "how often it turns")
    verdict = "fits" if report["fits"] else "does not fit"
    total = sum(report["memory"].values())
    print(f"{verdict:<12} {mebibytes(total)} a chip of {mebibytes(report['usable'])}")


def sizes(parts: dict) -> str:
    """Return parts, {name: bytes}, as text, without those that are empty."""
    return ", ".join(f"{name} {mebibytes(size)}" for name, size in parts.items() if size)


def mebibytes(size: float) -> str:
    """Return a number of bytes in MiB."""
    return f"{size / 2**20:,.1f} MiB"


if __name__ == "__main__":
    cli.run(main)
