"""The files in deploy/ are taken by the tools they are for, as far as these can tell without machines of their own."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from slurm_controller import slurm_controller

DEPLOY = Path(__file__).parents[1] / "deploy"
KUBERNETES, COMPOSE, SLURM = (DEPLOY / name for name in ("kubernetes.yaml", "compose.yaml", "slurm.sh"))


def test_kubernetes_knows_every_field() -> None:
    documents = list(yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8")))
    assert [document["kind"] for document in documents] == ["Service", "Job"]
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    service, job = documents
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


@pytest.mark.skipif("CI" not in os.environ and shutil.which("podman") is None, reason="podman is not installed")
def test_compose_would_start_a_server_that_only_the_trainer_reaches() -> None:
    run = [sys.executable, "-m", "podman_compose", "--verbose", "--dry-run", "-f", str(COMPOSE), "up", "--no-build"]
    told = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120).stderr
    created = {
        name: line for line in told.splitlines() for name in re.findall(r"podman create --name=phf_(\w+?)_1", line)
    }
    assert list(created) == ["server", "trainer"]
    assert all("--publish" not in line and " -p " not in line for line in created.values())
    assert "--read-only" in created["trainer"]
    assert "--requires=phf_server_1" in created["trainer"]


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda script: script.name)
def test_the_shell_can_read_the_scripts(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_slurm_asks_for_the_machines_cores_and_puts_a_job_that_was_stopped_into_the_queue_again() -> None:
    script = SLURM.read_text(encoding="utf-8")
    assert "#SBATCH --exclusive" in script
    assert 'srun --cpus-per-task="$SLURM_CPUS_ON_NODE"' in script
    assert "#SBATCH --signal=B:TERM" in script  # to this script, which srun's tasks would keep it from
    assert script.index("trap ") < script.index("srun ") < script.index('scontrol requeue "$SLURM_JOB_ID"')


@pytest.mark.skipif("CI" not in os.environ and shutil.which("slurmctld") is None, reason="slurmctld is not installed")
def test_slurm_would_start_it_on_two_machines(tmp_path: Path) -> None:
    with slurm_controller(tmp_path) as environment:
        run = ["sbatch", "--test-only", str(SLURM)]
        planned = subprocess.run(run, env=environment, capture_output=True, text=True, check=True, timeout=60).stderr
        assert "on nodes n[1-2]" in planned
        run = ["sbatch", "--test-only", "--gpus-per-node=9", str(SLURM)]
        refused = subprocess.run(run, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert "node configuration is not available" in refused.stderr


def train_commands() -> dict[str, list[str]]:
    """What comes after `phf train` in each file."""
    _, job = yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))
    [container] = job["spec"]["template"]["spec"]["containers"]
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["trainer"]["command"]
    script = shlex.split(SLURM.read_text(encoding="utf-8").replace("\\\n", " "), comments=True)
    lines = {"kubernetes": container["args"], "compose": compose, "slurm": script[: script.index("$@")]}
    return {name: words[words.index("train") + 1 :] for name, words in lines.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kubernetes", "compose", "slurm"])
def test_the_training_in_it_is_one_that_a_run_would_take(name: str, tmp_path: Path) -> None:
    words = [word for word in train_commands()[name] if word != "--resume"]
    assert "--resume" in train_commands()[name]  # after a stop it goes on
    command = [sys.executable, "-m", "phfcli", "train", *words, "--dry-run", "--output-dir", str(tmp_path / "run")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
