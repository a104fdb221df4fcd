#!/usr/bin/env bash
# Test on several GPUs of one or more machines:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# For several machines set NNODES, NODE_RANK and MASTER_ADDR on each.
set -euo pipefail

config=${1:?a config file is expected first}
checkpoint=${2:?a checkpoint is expected second}
gpus=${3:?the number of GPUs is expected third}

python -m torch.distributed.run --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    --nproc-per-node="$gpus" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
