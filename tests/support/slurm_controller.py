"""A Slurm controller of two machines with eight GPUs each, which are not there: it plans jobs, and starts none."""

import getpass
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIG = """\
ClusterName=tried
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}
SlurmctldPidFile={folder}/pid
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
GresTypes=gpu
ResumeProgram=/bin/true
SuspendProgram=/bin/true
SuspendTime=600
NodeName=n[1-2] NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:8 State=CLOUD
PartitionName=all Nodes=n[1-2] Default=YES MaxTime=INFINITE
"""


@contextmanager
def slurm_controller(folder: Path) -> Iterator[dict[str, str]]:
    """While it runs, Slurm's commands find it with this environment."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(port=port, user=getpass.getuser(), folder=folder), encoding="utf-8")
    environment = os.environ | {"SLURM_CONF": str(config)}
    with (folder / "log").open("w") as log:
        controller = subprocess.Popen(["slurmctld", "-D", "-c"], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(100):
            if subprocess.run(["scontrol", "ping"], env=environment, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        yield environment
    finally:
        controller.terminate()
        controller.wait(30)
