#!/usr/bin/env bash
# Train on a Slurm cluster:
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options]
set -euo pipefail

partition=${1:?a partition is expected first}
job_name=${2:?a job name is expected second}
config=${3:?a config file is expected third}
work_dir=${4:?a work dir is expected fourth}
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}

# SRUN_ARGS holds several words.
# shellcheck disable=SC2086
srun --partition="$partition" --job-name="$job_name" --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" --gres="gpu:$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --work-dir "$work_dir" \
    --launcher slurm "${@:5}"
