"""A TPU slice by gcloud: make it or take what is there, copy the code, run on all workers, and again after a preemption.

Nothing of it is karpjax's own machinery: the commands are those one would type, and --dry-run prints them. The workdir is on
gs://, so that a slice that is taken away takes nothing with it: the next one goes on from the newest checkpoint.
"""
import shlex
import subprocess
import sys
import time

from karpjax.core.errors import Preempted, UserError
from karpjax.launch.local import workdir_of

FLAGS = {"name": str, "type": str, "zone": str, "version": str, "spot": False, "queued": False, "dry-run": False,
         "restarts": 20}
PATIENCE = 30  # seconds between looks at a request that is queued
GONE = ("", "PREEMPTED", "TERMINATED", "STOPPED", "DELETING")  # "": there is no slice of that name
CODE, LOG = "karpjax.tgz", "karpjax.log"


def launch(options, rest: list[str]) -> int:
    if not workdir_of(rest).startswith("gs://"):
        raise UserError(f"--workdir={workdir_of(rest)}: expected gs://BUCKET/..., found a folder of this machine, which the "
                        "workers of a slice do not share")
    command = commands(options, rest)
    if options["dry-run"]:
        for name in ("describe", "create", "pack", "copy", "run"):
            print(f"# {name}\n{command[name]}")
        return 0
    if subprocess.run(["bash", "-c", "command -v gcloud git"], stdout=subprocess.DEVNULL).returncode:
        raise UserError("expected gcloud and git on the PATH; install the Google Cloud CLI, or see --dry-run")
    for attempt in range(options.restarts + 1):
        make(options, command)
        for name in ("pack", "copy"):
            if code := shell(command[name]):
                raise UserError(f"could not {name} the code (exit code {code}): {command[name]}")
        code = shell(command["run"])
        if code == 0:
            return 0
        now = state(command)
        if now not in GONE and code != Preempted.code:
            return code
        print(f"karpjax: preempted (the slice is {now or 'gone'}); start {attempt + 2}", file=sys.stderr)
    return Preempted.code


def commands(options, rest: list[str]) -> dict[str, str]:
    """{what: the line for a shell}."""
    slice_, zone, spot = shlex.quote(options.name), f"--zone={shlex.quote(options.zone)}", " --spot" * options.spot
    vm = "gcloud compute tpus tpu-vm"
    if options.queued:
        make = (f"gcloud compute tpus queued-resources create {slice_} --node-id={slice_} {zone} "
                f"--accelerator-type={shlex.quote(options.type)} --runtime-version={shlex.quote(options.version)}{spot}")
        remove = f"gcloud compute tpus queued-resources delete {slice_} {zone} --force --quiet"
    else:
        make = (f"{vm} create {slice_} {zone} --accelerator-type={shlex.quote(options.type)} "
                f"--version={shlex.quote(options.version)}{spot}")
        remove = f"{vm} delete {slice_} {zone} --quiet"
    on_a_worker = " && ".join([
        "set -o pipefail",
        f"mkdir -p karpjax && tar -xzf {CODE} -C karpjax && cd karpjax",
        # The runtime's own Python may be older than karpjax's.
        "(command -v python3.11 > /dev/null || (sudo apt-get -q update && sudo apt-get -q install -y python3.11-venv))",
        "python3.11 -m venv .venv && .venv/bin/pip install -q -e '.[tpu,gcs]'",
        f".venv/bin/python -m karpjax.train --distributed {shlex.join(rest)} 2>&1 | tee {LOG} "
        "| if [ \"${HOSTNAME##*-}\" = 0 ]; then cat; else cat > /dev/null; fi"])
    return {"describe": f"{vm} describe {slice_} {zone} --format='value(state)'", "create": make, "remove": remove,
            "pack": f"git ls-files -z | tar -czf {CODE} --null -T -",
            "copy": f"{vm} scp {CODE} {slice_}: {zone} --worker=all",
            "run": f"{vm} ssh {slice_} {zone} --worker=all --command={shlex.quote(on_a_worker)}"}


def make(options, command: dict) -> None:
    """A slice that is ready: as it is, or made; what a preemption left is removed first, for it cannot be started again."""
    now = state(command)
    if now in GONE:
        if now:
            shell(command["remove"])
        if code := shell(command["create"]):
            raise UserError(f"the slice could not be made (exit code {code}): {command['create']}")
    while state(command) != "READY":
        time.sleep(PATIENCE)


def state(command: dict) -> str:
    return subprocess.run(["bash", "-c", command["describe"]], capture_output=True, text=True).stdout.strip()


def shell(line: str) -> int:
    print(f"+ {line}", file=sys.stderr, flush=True)
    return subprocess.run(["bash", "-o", "pipefail", "-c", line]).returncode
