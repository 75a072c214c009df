#!/usr/bin/env bash
# One evaluation on eight GPUs, as a SLURM array; from a checkout with `make setup` done:
#
#   job=$(sbatch --parsable --array=1-8 scripts/slurm/eval_array.sh MODEL ADAPTER ...)
#   sbatch --dependency=afterok:$job --wrap ".venv/bin/midalign leaderboard merge shards --output results"
#
# A task that was stopped goes on where it was when it is submitted again: sbatch --array=3 ...
#SBATCH --job-name=midalign-eval
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail

base=$1; shift
adapters=()
for folder in "$@"; do adapters+=(--adapter "$folder"); done

export HF_HUB_OFFLINE=1 # compute nodes rarely have a network: fetch base and data on the login node
.venv/bin/midalign eval --base "$base" "${adapters[@]}" --tasks midalign_slot \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --output shards
