"""A real Slurm on one machine, for tests: munged, slurmctld and slurmd as processes of our own, on loopback only.

Needs the programs of Debian's slurm-wlm and munge, but no service, file or user of the system, nor to be root: all
lies in one temporary folder, and all is stopped at the end whatever happens. As a command it starts a cluster, runs a
command in it, and stops it: python tests/slurm_loopback.py squeue
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
PATIENCE = 30  # seconds for a daemon to answer, and again to end
# Requeued jobs wait cred_expire seconds; the defaults of the others are for clusters and not for tests either.
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmdPort={daemon}
SrunPortRange=60001-62000
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
CompleteWait=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=work Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime=20 State=UP
PartitionName=urgent Nodes={host} MaxTime=60 PriorityTier=2 State=UP
"""


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
    return f"no {', '.join(absent)}: apt-get install slurm-wlm munge" if absent else ""


@contextlib.contextmanager
def cluster():
    """Yield the environment in which Slurm's commands reach a cluster of one node with two CPUs."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munged trusts a socket only where others can reach it
    daemons = []
    try:
        environment = _configured(folder)
        for name, arguments in _daemons(folder).items():
            daemons.append(_start(name, arguments, folder, environment))
            if name == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), "munged", folder)
        _wait(lambda: _says(environment, "sinfo", "--noheader", "--format=%T") == "idle", "the node", folder)
        yield environment
    finally:
        with contextlib.suppress(Exception):
            _says(environment, "scancel", "--user", pwd.getpwuid(os.getuid()).pw_name)
            _wait(lambda: not _says(environment, "squeue", "--noheader"), "the end of the jobs", folder)
        for daemon in reversed(daemons):
            _stop(daemon)
        _kill_steps(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _configured(folder: Path) -> dict[str, str]:
    """Write slurm.conf and munge's key. Returns the environment that points at them."""
    host = socket.gethostname().split(".")[0]
    control, daemon = _free_ports(2)
    text = CONFIGURATION.format(host=host, folder=folder, user=pwd.getpwuid(os.getuid()).pw_name, control=control,
                                daemon=daemon)
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return clean | {"PATH": SEARCHED, "SLURM_CONF": str(folder / "slurm.conf")}


def _daemons(folder: Path) -> dict[str, list[str]]:
    """In the foreground, so that they are children of ours and end with us."""
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    return {
        "munged": ["--foreground", "--force", f"--socket={folder}/munge.socket", *files],
        "slurmctld": ["-D", "-f", str(folder / "slurm.conf")],
        "slurmd": ["-D", "-f", str(folder / "slurm.conf")],
    }


def _start(name: str, arguments: list[str], folder: Path, environment: dict) -> subprocess.Popen:
    with open(folder / f"{name}.out", "wb") as output:
        # setpriv: it also ends where this process is killed and cannot stop it
        return subprocess.Popen(["setpriv", "--pdeathsig", "TERM", shutil.which(name, path=SEARCHED), *arguments],
                                env=environment, stdout=output, stderr=output, start_new_session=True)  # fmt: skip


def _stop(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _kill_steps(folder: Path) -> None:
    """slurmd starts its steps as daemons: end those of this cluster that a killed slurmd left."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={folder}/".encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _says(environment: dict, *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout.strip()


def _wait(condition, what: str, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in [*folder.glob("*.log"), *folder.glob("*.out")])
            raise RuntimeError(f"{what} did not come within {PATIENCE} s:\n{logs}")
        time.sleep(0.1)


if __name__ == "__main__":
    with cluster() as environment_:
        status = subprocess.call(sys.argv[1:] or ["sinfo"], env=environment_)
    sys.exit(status)
