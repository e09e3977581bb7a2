"""A real SLURM cluster of one node, this machine, for the time of a test: munged, slurmctld and slurmd of Debian.

Two partitions: a job in `high` preempts those in `low`, which are requeued. All state lies in one folder.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "sinfo")
START_SECONDS = 60.0
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=6
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=25
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing_for_slurm() -> str | None:
    """Why this machine can't start a cluster, or None where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd and munged are started as root here"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmCluster:
    """A cluster that runs."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What a user's shell needs to talk to it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """A SLURM command's output."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def states(self, job_id: str) -> list[str]:
        """The states of a job's tasks that are not over: PENDING, RUNNING, COMPLETING ..."""
        return self.call("squeue", "--noheader", "--array", "--jobs", job_id, "--format=%T").split()


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Starts the three daemons, waits until the node is idle, and ends all that they run."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    conf = CONF.format(host=host, folder=folder, cpus=os.cpu_count(), **ports)
    (folder / "slurm.conf").write_text(conf)
    cluster = SlurmCluster(folder=folder)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    options = [f"--{option}={folder}/munge.{name}" for option, name in names.items()]
    with ExitStack() as stack:
        stack.enter_context(_daemon(["munged", "--foreground", "--force", *options], cluster))
        _wait_for((folder / "munge.socket").exists, "munged's socket", cluster)
        stack.enter_context(_daemon(["slurmctld", "-D", "-f", str(folder / "slurm.conf")], cluster))
        stack.enter_context(_daemon(["slurmd", "-D", "-N", host, "-f", str(folder / "slurm.conf")], cluster))
        _wait_for(lambda: _node_state(cluster) == "idle", "an idle node", cluster)
        try:
            yield cluster
        finally:
            _end_jobs(cluster)


def _end_jobs(cluster: SlurmCluster) -> None:
    environment = {**os.environ, **cluster.environment}
    subprocess.run(["scancel", "--user=root"], env=environment, check=False)
    subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=environment, check=False, capture_output=True)
    _wait_for(lambda: not cluster.call("squeue", "--noheader"), "the end of all jobs", cluster)


@contextmanager
def _daemon(command: list[str], cluster: SlurmCluster) -> Iterator[None]:
    with (cluster.folder / f"{command[0]}.out").open("w") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **cluster.environment}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _node_state(cluster: SlurmCluster) -> str:
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
    return done.stdout.split()[0] if done.stdout.split() else ""


def _wait_for(condition, what: str, cluster: SlurmCluster) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            logs = {path.name: path.read_text()[-2000:] for path in cluster.folder.glob("*.out")}
            raise AssertionError(f"no {what} within {START_SECONDS} s: {logs}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
