"""Training on a TPU slice by gcloud: make the slice, copy the code, run, and resume.

The commands are those that one would type, and --dry-run prints them. The workdir is on gs://, so a
slice that is taken away takes nothing with it: the next one goes on from the newest checkpoint.
"""
import re
import shlex
import shutil
import subprocess
import sys
import time

from karpjax.core.errors import NotFinite, Outage, Preempted, UserError
from karpjax.launch.local import workdir_of

FLAGS = {"name": str, "type": str, "zone": str, "version": str, "spot": False, "queued": False,
         "dry-run": False, "restarts": 20}
PATIENCE = 30  # seconds between looks at a slice that is not ready
READY_WITHIN = 1800  # seconds that a slice may take to become ready; one in a queue takes any time
REMINDER = 600  # seconds after which a wait is shown again
LOOKS = 10     # at most, while gcloud itself fails
GONE = ("", "PREEMPTED", "TERMINATED", "STOPPED", "DELETING")  # "": there is no slice of that name
ENDED = ("", "FAILED", "SUSPENDING", "SUSPENDED", "DELETING")  # a request that makes no slice
FINAL = (0, UserError.code, NotFinite.code)  # exit codes that another slice would not change
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
    if code := shell(command["pack"]):
        raise UserError(f"could not pack the code (exit code {code}): {command['pack']}")
    for attempt in range(options.restarts + 1):
        code = run_once(command)
        if code in FINAL:
            return code
        now = state(command)
        if now not in GONE and code != Preempted.code:
            return code
        if attempt < options.restarts:
            print(f"karpjax: preempted (the slice is {now or 'gone'}); start {attempt + 2}",
                  file=sys.stderr)
        if options.queued and not now:  # the request outlives its slice, and keeps its name
            shell(command["remove"])
    return Preempted.code


def run_once(command: dict) -> int:
    """Make the slice ready, run there, and return the exit code, Preempted's if it went away."""
    if not make_ready(command):
        return Preempted.code
    if code := shell(command["copy"]):
        if state(command) in GONE:
            return Preempted.code
        raise UserError(f"could not copy the code (exit code {code}): {command['copy']}")
    return shell(command["run"])


def commands(options, rest: list[str]) -> dict[str, str]:
    """Return the lines for a shell: describe, create, remove, pack, copy and run.

    With --queued also request, which describes the request in the queue.
    """
    slice_, zone = shlex.quote(options.name), f"--zone={shlex.quote(options.zone)}"
    kind, version = shlex.quote(options.type), shlex.quote(options.version)
    spot = " --spot" * options.spot
    vm, request = "gcloud compute tpus tpu-vm", {}
    if options.queued:
        queued = "gcloud compute tpus queued-resources"
        create = (f"{queued} create {slice_} --node-id={slice_} {zone} --accelerator-type={kind} "
                  f"--runtime-version={version}{spot}")
        remove = f"{queued} delete {slice_} {zone} --force --quiet"
        request = {"request": f"{queued} describe {slice_} {zone} --format='value(state.state)'"}
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
    return {**request, "describe": f"{vm} describe {slice_} {zone} --format='value(state)'",
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


def make_ready(command: dict) -> bool:
    """Make the slice unless it is there, and return whether it became ready.

    If it goes away before, it did not. Raises UserError if it can never become ready.
    """
    now = state(command)
    if now in GONE:
        if now:  # what a preemption left cannot be started again
            shell(command["remove"])
        if code := shell(command["create"]):
            raise UserError(f"the slice could not be made (exit code {code}): {command['create']}")
    started = shown_at = time.monotonic()
    shown = None
    while (now := state(command)) != "READY":
        request = state(command, "request") if "request" in command else None
        if now in GONE and (request is None or now):
            return False
        if request in ENDED and not now:
            raise UserError(f"the request for the slice ended as {request or 'deleted'}; see why: "
                            f"{command['request'].split(' --format')[0]}; then remove it, and "
                            f"start again: {command['remove']}")
        waited = time.monotonic() - started
        if waited > READY_WITHIN and request is None:
            raise UserError(f"the slice is {now} and not READY after {waited / 60:.0f} minutes; "
                            f"look at it, or remove it and start again: {command['remove']}")
        if (now, request) != shown or time.monotonic() - shown_at >= REMINDER:
            shown, shown_at = (now, request), time.monotonic()
            queue = f", its request {request}" if request else ""
            print(f"karpjax: waiting for the slice: {now or 'not there yet'}{queue}, "
                  f"{waited / 60:.0f} minutes so far", file=sys.stderr, flush=True)
        time.sleep(PATIENCE)
    return True


def state(command: dict, of: str = "describe") -> str:
    """Return the state of the slice, as in "READY", or of its "request", "" if there is none."""
    for look in range(LOOKS):  # a failure of gcloud's own is no preemption
        if look:
            time.sleep(PATIENCE)
        described = subprocess.run(["bash", "-c", command[of]], capture_output=True, text=True)
        if described.returncode == 0:
            return described.stdout.strip()
        if re.search("not.found", described.stderr, re.IGNORECASE):
            return ""
        reason = " ".join(described.stderr.split())[:300] or f"exit code {described.returncode}"
        print(f"karpjax: gcloud failed ({reason})", file=sys.stderr, flush=True)
    raise Outage(f"gcloud failed {LOOKS} times ({reason}): {command[of]}; start the same command "
                 "again, the slice may run on")


def shell(line: str) -> int:
    """Show a line, run it, and return its exit code."""
    print(f"+ {line}", file=sys.stderr, flush=True)
    return subprocess.run(["bash", "-o", "pipefail", "-c", line]).returncode
