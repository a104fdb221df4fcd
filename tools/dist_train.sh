#!/usr/bin/env bash
# Train on several GPUs of one or more machines:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# For several machines set NNODES, NODE_RANK and MASTER_ADDR on each.
set -euo pipefail

config=${1:?a config file is expected first}
gpus=${2:?the number of GPUs is expected second}

python -m torch.distributed.run --nnodes="${NNODES:-1}" --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" --master-port="${PORT:-29500}" \
    --nproc-per-node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
