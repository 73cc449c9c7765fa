"""`weakloc train` on two machines of two processes each, one of which is killed.

    python -m tests.kills.machines --times N [--launcher srun] [--epochs N] [--frozen] [--seed S]

The machines are network namespaces with a host name each, joined by a cable (veth). torchrun is
started in both as docs/scaling-out.md says; or processes are begun in the environment that srun
gives its tasks, and ended by this script as --kill-on-bad-exit has it: SLURM itself is not here.
The numbers of every epoch and the weights have to be those of one process that sees the batches of
all four at once. Then a process is killed at a random moment of the training, all others have to
end, and the same command with --resume has to come to the same again. Same is up to a few roundings
of float32 (TOLERANCE): four gradients are added up in another order than one, and in another one in
the first step of a job than in later ones, before PyTorch has put them into the order in which they
come.
Needs root on Linux. The exit code is 1 where something differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import psutil
from safetensors.numpy import load_file

from tests.habits import log

ROOT = Path(__file__).parents[2]
NAMES = ("weakloc-a", "weakloc-b")
PORT = 29500
NUM_PROCESSES = 2  # on each machine
GLOBAL_BATCH = 16
TOLERANCE = 1e-5  # of a number, relative, and of a weight
# The network has layer norms: batch norms would see the images of their own process alone.
TRAINING = (
    *("train", "data", "--backbone", "convnext_atto", "--weights", "none", "--image-size", "64"),
    *("--no-refine", "--workers", "0", "--precision", "fp32", "--checkpoint-minutes", "0.01"),
    *("--logger", "csv"),
)
SCENES = ("scenes", "data", "--train", "64", "--val", "13")
SECONDS = 900.0  # a job takes so long at most
ENTRY = 'hostname "$0" && mount --bind hosts /etc/hosts && exec "$@"'
TAKEN = "seconds"  # the column that no two jobs have alike

Numbers = list[dict[str, str]]


@dataclass(frozen=True)
class Machine:
    """A namespace; `device` is its end of the cable."""

    name: str
    address: str
    device: str

    def inside(self, *command: str) -> list[str]:
        """The command that runs this one there, under the machine's own name."""
        apart = ("unshare", "--mount", "--uts", "sh", "-c", ENTRY)
        return ["ip", "netns", "exec", self.name, *apart, self.name, *command]

    def bytes_received(self) -> int:
        file = f"/sys/class/net/{self.device}/statistics/rx_bytes"
        shown = subprocess.check_output(["ip", "netns", "exec", self.name, "cat", file])
        return int(shown)


@contextmanager
def two_machines(folder: Path) -> Iterator[list[Machine]]:
    """Joined by a cable; each knows the names of both."""
    machines = [
        Machine(name, f"10.97.0.{number}", f"cable{number}")
        for number, name in enumerate(NAMES, start=1)
    ]
    ends = [("dev", machine.device, "netns", machine.name) for machine in machines]
    lines = [f"{machine.address} {machine.name}" for machine in machines]
    (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    try:
        for machine in machines:
            _ip("netns", "add", machine.name)
        near, far = machines
        _ip("link", "add", near.device, *ends[0][2:], "type", "veth", "peer", far.device,
            *ends[1][2:])  # fmt: skip
        for machine in machines:
            within = ("-n", machine.name)
            _ip(*within, "addr", "add", f"{machine.address}/24", "dev", machine.device)
            for device in ("lo", machine.device):
                _ip(*within, "link", "set", device, "up")
        yield machines
    finally:
        for machine in machines:
            subprocess.run(["ip", "netns", "del", machine.name], check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def environment_of_slurm(node: int, local: int, tasks_per_node: int) -> dict[str, str]:
    """What srun says to a task of itself."""
    values = {
        "JOB_ID": 4242,
        "JOB_NAME": "train",
        "NNODES": len(NAMES),
        "NODELIST": ",".join(NAMES),
        "NODEID": node,
        "NTASKS": len(NAMES) * tasks_per_node,
        "NTASKS_PER_NODE": tasks_per_node,
        "PROCID": node * tasks_per_node + local,
        "LOCALID": local,
    }
    return {f"SLURM_{name}": str(value) for name, value in values.items()}


LAUNCHERS = ("torchrun", "srun", "srun torchrun")


@dataclass(frozen=True)
class Job:
    """The same command on both machines; what they say is in files beside the data."""

    machines: Sequence[Machine]
    folder: Path
    training: Sequence[str]
    launcher: str

    def start(self, out: str, *more: str) -> list[subprocess.Popen[bytes]]:
        batch = GLOBAL_BATCH // (len(self.machines) * NUM_PROCESSES)
        split = ("--nodes", str(len(self.machines)), "--devices", str(NUM_PROCESSES))
        command = ("-m", "weakloc.cli", *self.training, "--batch-size", str(batch), *split)
        num_tasks = NUM_PROCESSES
        if "torchrun" in self.launcher:
            num_tasks = 1
            command = (
                *("-m", "torch.distributed.run", "--nnodes", str(len(self.machines))),
                *("--nproc-per-node", str(NUM_PROCESSES), "--rdzv-backend", "c10d"),
                *("--rdzv-endpoint", f"{self.machines[0].name}:{PORT}"),
                *command,
            )
        started = []
        for node, machine in enumerate(self.machines):
            for local in range(num_tasks):
                own = (
                    environment_of_slurm(node, local, num_tasks) if "srun" in self.launcher else {}
                )
                with (self.folder / f"{machine.name}.{local}.txt").open("wb") as said:
                    process = subprocess.Popen(
                        machine.inside(sys.executable, *command, "--out", out, *more),
                        cwd=self.folder,
                        env={**os.environ, **own},
                        stdout=said,
                        stderr=subprocess.STDOUT,
                    )
                started.append(process)
        return started

    def finish(self, jobs: Sequence[subprocess.Popen[bytes]]) -> None:
        for job in jobs:
            if job.wait(SECONDS) != 0:
                said = [file.read_text()[-3000:] for file in sorted(self.folder.glob("*.txt"))]
                raise RuntimeError(f"a job ends with {job.returncode}: {said}")

    def kill_one(
        self, jobs: Sequence[subprocess.Popen[bytes]], out: str, seconds: float, random: Random
    ) -> str:
        """Kills a process at most so long after the first checkpoint; empty if all had ended."""
        checkpoint = self.folder / out / "last.ckpt"
        until = time.monotonic() + SECONDS
        while not checkpoint.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(random.uniform(0, seconds))
        processes = list(workers(jobs))
        for process in random.sample(processes, len(processes)):
            with suppress(psutil.NoSuchProcess):
                environment = process.environ()
                rank = environment.get("RANK") or environment["SLURM_PROCID"]
                process.kill()
                return f"rank {rank}"
        return ""

    def go_on(self, jobs: Sequence[subprocess.Popen[bytes]], out: str) -> None:
        """After a kill: waits for the end of all, and gives the same command with --resume."""
        if self.launcher == "srun":  # as --kill-on-bad-exit has it
            for process in workers(jobs):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for job in jobs:
            job.wait(SECONDS)
        self.finish(self.start(out, "--resume"))


def workers(jobs: Sequence[subprocess.Popen[bytes]]) -> Iterator[psutil.Process]:
    """The processes that train, without torchrun before them."""
    for job in jobs:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(job.pid)
            for process in (first, *first.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    words = process.cmdline()  # of a dead one, none
                    if "weakloc.cli" in words and "torch.distributed.run" not in words:
                        yield process


def rows(run: Path) -> Numbers:
    """The run's log: of every epoch what it measured."""
    with (run / "epochs.csv").open() as file:
        return list(csv.DictReader(file))


def numbers(run: Path) -> Numbers:
    """To the last digit, without how long they took."""
    return [{name: row[name] for name in row if name != TAKEN} for row in rows(run)]


def farthest(one: Numbers, other: Numbers) -> float:
    """The largest relative difference of two numbers; infinity where the epochs differ."""
    if [list(row) for row in one] != [list(row) for row in other]:
        return np.inf
    first, second = (
        np.array([[float(value or "nan") for value in row.values()] for row in log])
        for log in (one, other)
    )
    apart = np.abs(first - second) / np.maximum(np.abs(first), 1e-9)
    return float(np.max(np.nan_to_num(apart)))


def differences(one: Path, other: Path) -> dict[str, float]:
    """The largest between two runs."""
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    return {
        "number": farthest(numbers(one), numbers(other)),
        "weight": max(float(np.abs(first[name] - second[name]).max()) for name in first),
    }


def in_one_process(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "weakloc.cli", *arguments, "--quiet"]
    subprocess.run(command, cwd=folder, check=True, timeout=SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3, help="kills in all")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="torchrun")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--frozen", action="store_true", help="learn on cached features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *sys.path])
    random, found, killed = Random(chosen.seed), list[dict[str, float]](), list[str]()
    training = (*TRAINING, "--epochs", str(chosen.epochs), *["--frozen"] * chosen.frozen)
    with tempfile.TemporaryDirectory(prefix="machines-") as name:
        folder = Path(name)
        one, four, again = (folder / run for run in ("one", "four", "again"))
        in_one_process(folder, *SCENES)
        in_one_process(folder, *training, "--batch-size", str(GLOBAL_BATCH), "--out", one.name)
        with two_machines(folder) as machines:
            job = Job(machines, folder, training, chosen.launcher)
            job.finish(job.start(four.name))
            carried = [machine.bytes_received() for machine in machines]
            found.append(differences(one, four))
            print(*numbers(one), *numbers(four), found[-1], sep="\n", flush=True)
            # The first epoch lasts longest, and is over when its checkpoint is there.
            seconds = sum(float(row[TAKEN]) for row in rows(four)[1:])
            while len(killed) < chosen.times:
                shutil.rmtree(again, ignore_errors=True)
                begun = job.start(again.name)
                victim = job.kill_one(begun, again.name, seconds, random)
                job.go_on(begun, again.name)
                found.append(differences(four, again))
                killed.append(victim or "nobody: it had ended")
                print(killed[-1], found[-1], flush=True)
    record = {
        "epochs": chosen.epochs,
        "launcher": chosen.launcher,
        "frozen": chosen.frozen,
        "bytes_through_the_cable": carried,
        "killed": killed,
        "differences": found,
    }
    print(json.dumps(record))
    if chosen.log is not None:
        log(chosen.log, {"seed": chosen.seed, **record})
    return int(max(value for row in found for value in row.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
