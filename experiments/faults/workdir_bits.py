"""Flip one bit of a file that a workdir holds, start the run again, and compare with the whole run.

    python experiments/faults/workdir_bits.py            # 60 bits a kind of file: half an hour
    python experiments/faults/workdir_bits.py --quick --log=FILE

The run of tests/tiny.py was killed between the saves at steps 8 and 12. An outcome is one of

    same        the rows, the state and the checkpoints that the whole run has
    fallback    these, and a checkpoint was reported as damaged
    reported    the state is the same; rows differ, or are fewer, as a line says
    one line    an error of one line
    another     another model or another run: never
    unreported  other rows, and no line: never
    traceback   never
"""
import collections
import contextlib
import io
import os
import pathlib
import random
import re
import shutil
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

from guarantees.harness import kept_in, record_of  # noqa: E402
from tiny_runs import train  # noqa: E402

from experiments.runs import Log, command  # noqa: E402
from karpjax.core.errors import UserError  # noqa: E402
from karpjax.run.workdir import versions  # noqa: E402

WRONG = ("another", "unreported", "traceback")
STEPS = dict(steps=12, log_every=1)
SAID = ("cannot be read", "missing", "not those that were logged", "summary")


def kind_of(name: str) -> str:
    """Return a file's name without what differs between files of one kind."""
    return re.sub(r"\d{3,}\S*|[0-9a-f]{16,}", "*", re.sub(r"checkpoints/\d+", "checkpoints/STEP",
                                                          name))


def killed_run(folder: pathlib.Path) -> None:
    """Leave a run that has saved steps 4 and 8 of 12, and logged more."""
    train(folder / "run", **STEPS)
    shutil.rmtree(folder / "run" / "checkpoints" / "12")
    for name in ("summary.json", "curves.png"):
        (folder / "run" / name).unlink()


def outcome(workdir, expected) -> tuple[str, str]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            train(workdir, **STEPS)
        rows, state = record_of(workdir)
    except UserError as error:
        return ("traceback" if "\n" in str(error) else "one line"), str(error)
    except Exception as error:  # the fault that is looked for
        return "traceback", f"{type(error).__name__}: {error}"
    said = said.getvalue()
    if state != expected[1]:
        return "another", said[-300:]
    if rows != expected[0]:
        found = [line for line in said.splitlines() if any(word in line for word in SAID)]
        return ("reported" if found else "unreported"), "".join(found) or said[-300:]
    if "damaged" in said:
        return "fallback", ""
    return ("same" if kept_in(workdir) == expected[2] else "another"), ""


def flip(path, chance) -> None:
    data = bytearray(path.read_bytes())
    bit = chance.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def kinds_of_files(workdir) -> dict[str, list[str]]:
    """Return {kind: names} of the files that are not empty."""
    kinds = collections.defaultdict(list)
    for path in sorted(workdir.rglob("*")):
        if path.is_file() and path.stat().st_size:
            name = str(path.relative_to(workdir))
            kinds[kind_of(name)].append(name)
    return kinds


def study(options, folder) -> None:
    """Flip bits of every kind of file, log each kind, and exit with 1 if an outcome was wrong."""
    log, right, chance = Log(options.log), True, random.Random(0)
    log({"versions": versions()})
    train(folder / "whole", **STEPS)
    expected = (*record_of(folder / "whole"), kept_in(folder / "whole"))
    killed_run(folder)
    bits = 1 if options.quick else 60
    for kind, names in kinds_of_files(folder / "run").items():
        counts, errors, start = collections.Counter(), [], time.process_time()
        for _ in range(bits):
            shutil.rmtree(folder / "struck", ignore_errors=True)
            shutil.copytree(folder / "run", folder / "struck")
            flip(folder / "struck" / chance.choice(names), chance)
            result, said = outcome(folder / "struck", expected)
            counts[result] += 1
            errors += [said[:300]] if result in WRONG else []
        right = right and not any(counts[each] for each in WRONG)
        log({"file": kind, "files": len(names), "bits": bits, **counts,
             "errors": sorted(set(errors))[:5], "seconds": round(time.process_time() - start, 1)})
    sys.exit(not right)


if __name__ == "__main__":
    command(study, log=pathlib.Path(__file__).parent / "workdir_bits.jsonl")
