"""Training on a TPU slice by gcloud: make the slice, copy the code, run, and resume.

The commands are those that one would type, and --dry-run prints them. The workdir is on gs://, so a
slice that is taken away takes nothing with it: the next one goes on from the newest checkpoint.
"""
import shlex
import shutil
import subprocess
import sys
import time

from karpjax.core.errors import Preempted, UserError
from karpjax.launch.local import workdir_of

FLAGS = {"name": str, "type": str, "zone": str, "version": str, "spot": False, "queued": False,
         "dry-run": False, "restarts": 20}
PATIENCE = 30  # seconds between looks at a request that is queued
GONE = ("", "PREEMPTED", "TERMINATED", "STOPPED", "DELETING")  # "": there is no slice of that name
CODE, LOG = "karpjax.tgz", "karpjax.log"


def launch(options, rest: list[str]) -> int:
    """Run on a slice until the run ends, with train's flags `rest`, and return its exit code."""
    if not workdir_of(rest).startswith("gs://"):
        raise UserError(f"--workdir={workdir_of(rest)}: expected gs://BUCKET/..., found a folder "
                        "of this machine, which the workers of a slice do not share")
    command = commands(options, rest)
    if options["dry-run"]:
        for name in ("describe", "create", "pack", "copy", "run"):
            print(f"# {name}\n{command[name]}")
        return 0
    check_tools()
    for attempt in range(options.restarts + 1):
        make_ready(command)
        for name in ("pack", "copy"):
            if code := shell(command[name]):
                raise UserError(f"could not {name} the code (exit code {code}): {command[name]}")
        code = shell(command["run"])
        if code == 0:
            return 0
        now = state(command)
        if now not in GONE and code != Preempted.code:
            return code
        print(f"karpjax: preempted (the slice is {now or 'gone'}); start {attempt + 2}",
              file=sys.stderr)
        if options.queued and not now:  # the request outlives its slice, and keeps its name
            shell(command["remove"])
    return Preempted.code


def commands(options, rest: list[str]) -> dict[str, str]:
    """Return the lines for a shell: describe, create, remove, pack, copy and run."""
    slice_, zone = shlex.quote(options.name), f"--zone={shlex.quote(options.zone)}"
    kind, version = shlex.quote(options.type), shlex.quote(options.version)
    spot = " --spot" * options.spot
    vm = "gcloud compute tpus tpu-vm"
    if options.queued:
        queued = "gcloud compute tpus queued-resources"
        create = (f"{queued} create {slice_} --node-id={slice_} {zone} --accelerator-type={kind} "
                  f"--runtime-version={version}{spot}")
        remove = f"{queued} delete {slice_} {zone} --force --quiet"
    else:
        create = f"{vm} create {slice_} {zone} --accelerator-type={kind} --version={version}{spot}"
        remove = f"{vm} delete {slice_} {zone} --quiet"
    on_a_worker = " && ".join([
        "set -o pipefail",
        f"mkdir -p karpjax && tar -xzf {CODE} -C karpjax && cd karpjax",
        # The runtime's own Python may be older than karpjax's.
        "(command -v python3.11 > /dev/null || "
        "(sudo apt-get -q update && sudo apt-get -q install -y python3.11-venv))",
        "python3.11 -m venv .venv && .venv/bin/pip install -q -e '.[tpu,gcs]'",
        f".venv/bin/python -m karpjax.train --distributed {shlex.join(rest)} 2>&1 | tee {LOG} "
        "| if [ \"${HOSTNAME##*-}\" = 0 ]; then cat; else cat > /dev/null; fi"])
    return {"describe": f"{vm} describe {slice_} {zone} --format='value(state)'",
            "create": create, "remove": remove,
            "pack": f"git ls-files -z | tar -czf {CODE} --null -T -",
            "copy": f"{vm} scp {CODE} {slice_}: {zone} --worker=all",
            "run": f"{vm} ssh {slice_} {zone} --worker=all --command={shlex.quote(on_a_worker)}"}


def check_tools() -> None:
    """Raise UserError unless gcloud and git are on the PATH."""
    missing = [tool for tool in ("gcloud", "git") if not shutil.which(tool)]
    if missing:
        raise UserError("expected gcloud and git on the PATH, found no "
                        f"{' and no '.join(missing)}; install them (gcloud is the Google Cloud "
                        "CLI), or see --dry-run")


def make_ready(command: dict) -> None:
    """Make the slice unless it is there, and wait until it is ready."""
    now = state(command)
    if now in GONE:
        if now:  # what a preemption left cannot be started again
            shell(command["remove"])
        if code := shell(command["create"]):
            raise UserError(f"the slice could not be made (exit code {code}): {command['create']}")
    while state(command) != "READY":
        time.sleep(PATIENCE)


def state(command: dict) -> str:
    """Return the state of the slice, as in "READY", or "" if there is none."""
    described = subprocess.run(["bash", "-c", command["describe"]], capture_output=True, text=True)
    return described.stdout.strip()


def shell(line: str) -> int:
    """Show a line, run it, and return its exit code."""
    print(f"+ {line}", file=sys.stderr, flush=True)
    return subprocess.run(["bash", "-o", "pipefail", "-c", line]).returncode
