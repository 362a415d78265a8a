"""`make demo`: a Redis and a worker on this machine, and a network of each framework profiled through them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

DNNAMO = str(Path(sys.executable).with_name("dnnamo"))
COMMANDS = (
    "profile demo:mlp --mode training --steps 50 --threads 1",
    "ops {} --top 8",
    "profile demo:keras_mlp --mode training --steps 50 --threads 1",
    "ops {} --top 8",
    "ls --limit 2",
)


def main() -> None:
    cluster = subprocess.Popen([DNNAMO, "up"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        announcement = cluster.stdout.readline()  # export DNNAMO_BROKER_URL=redis://...
        if not announcement:
            sys.exit("`dnnamo up` did not start; run it by hand to see why.")
        broker_url = announcement.strip().partition("=")[2]
        for command in COMMANDS:
            show(command, os.environ | {"DNNAMO_BROKER_URL": broker_url})
    finally:
        cluster.send_signal(signal.SIGTERM)
        cluster.wait()
    print(f"\nThe results stay in the database: try {os.path.relpath(DNNAMO)} ls, or make test.")


def show(command: str, environment: dict[str, str]) -> None:
    job = newest_job(environment) if "{}" in command else ""
    command = command.format(job)
    print(f"\n$ dnnamo {command}", flush=True)
    subprocess.run([DNNAMO, *command.split()], env=environment, check=True)


def newest_job(environment: dict[str, str]) -> str:
    listed = subprocess.run(
        [DNNAMO, "ls", "--limit", "1", "-o", "csv"], env=environment, check=True, capture_output=True, text=True
    )
    return listed.stdout.splitlines()[1].partition(",")[0]


main()
