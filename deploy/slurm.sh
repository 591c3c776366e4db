#!/bin/bash
# Two machines of eight GPUs: sbatch deploy/slurm.sh, in a folder that both see; options of `phf train` may follow.
#SBATCH --job-name=phf
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@330
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# SIGTERM comes to this script before the time is over: the run ends with a checkpoint, and the job that is put into the
# queue again goes on from there
trap 'stopped=yes; kill -TERM "$training"' TERM
stopped=
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=300
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task="$SLURM_CPUS_ON_NODE" torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node 8 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$host:29500" \
    -m phfcli train --config qwen3-8b --output-dir runs/qwen3-8b --resume "$@" &
training=$!
wait "$training"
code=$?
if [ -n "$stopped" ]; then
    wait "$training" # the first wait was ended by the signal
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
