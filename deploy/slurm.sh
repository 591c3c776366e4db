#!/bin/bash
# Two machines of eight GPUs: sbatch deploy/slurm.sh, in a folder that both see; options of `phf train` may follow.
#SBATCH --job-name=phf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@330
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# SIGTERM comes before the time is over: the run ends with a checkpoint, and the requeued job goes on from there
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=300
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$host:29500" \
    -m phfcli train --config qwen3-8b --output-dir runs/qwen3-8b --resume "$@"
