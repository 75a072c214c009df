#!/usr/bin/env bash
# Train a recipe on several nodes: sbatch --nodes 2 --gpus-per-node 8 scripts/slurm/train.sh RECIPE [KEY=VALUE]...
# A job that is cut off goes on where it was when it is submitted again.
#SBATCH --job-name midalign-train
#SBATCH --ntasks-per-node 1
#SBATCH --time 24:00:00
#SBATCH --output %x-%j.log
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8} HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
gpus=${SLURM_GPUS_ON_NODE:?ask for GPUs: sbatch --gpus-per-node N}

srun bash -c '.venv/bin/accelerate launch --multi_gpu --num_machines "$0" --num_processes "$1" --machine_rank "$SLURM_NODEID" \
    --main_process_ip "$2" --main_process_port 29500 --mixed_precision no --dynamo_backend no \
    -m midalign.train "${@:3}"' "$SLURM_NNODES" "$((SLURM_NNODES * gpus))" "$first" "$@"
