"""Seconds of README's first two shell blocks, each in a fresh clone of HEAD with an empty home: the
quickstart and the tests, installation included.

    python experiments/start/readme.py [--python=FOLDER]    # FOLDER of a python3; 12 minutes
    python experiments/start/readme.py --quick --log=FILE   # the virtual environment alone

Adds a row for each block to readme.jsonl.
"""
import datetime
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from experiments.runs import ROOT, Log, command  # noqa: E402


def study(options, workdir):
    log = Log(options.log, keep=lambda row: True)
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[:2]
    blocks = [blocks[0].splitlines()[0]] * 2 if options.quick else blocks
    for number, block in enumerate(blocks, 1):
        clone, home = workdir / str(number) / "karpjax", workdir / str(number) / "home"
        home.mkdir(parents=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        if (ROOT.parent / "shared").exists():
            (clone.parent / "shared").symlink_to(ROOT.parent / "shared")
        keep = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        path = f"{options.python}:{os.environ['PATH']}" if options.python else os.environ["PATH"]
        env = {**keep, "HOME": str(home), "PATH": path, "CI": "true"}
        start = time.perf_counter()
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=clone, env=env,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        counts = re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout[-2000:])
        version = subprocess.run([".venv/bin/python", "--version"], cwd=clone, capture_output=True,
                                 text=True).stdout.split()[-1]
        log({"block": number, "seconds": round(time.perf_counter() - start),
             "exit": done.returncode, **{name: int(count) for count, name in counts},
             "python": version, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
             "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT,
                                      capture_output=True, text=True).stdout.strip(),
             "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")})
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)


def arguments(parser):
    parser.add_argument("--python", default="", help="the folder of another python3, to lead PATH")


if __name__ == "__main__":
    command(study, log=HERE / "readme.jsonl", arguments=arguments)
