#!/usr/bin/env bash
# One training on several GPUs by torchrun, as a prefix of the command:
#   make pretrain PROFILE=paper JOBS=1 LAUNCH='launch/torchrun.sh --nproc-per-node=8'
# On several nodes that share runs/, the same on each of them, HEAD being the name of one:
#   NODES=2 HEAD=node1 launch/torchrun.sh --nproc-per-node=8 \
#     .venv/bin/python -m replicate pretrain DINO-3 --profile paper
# Words before the command that begin with - are torchrun's options (--name=value). Stages other than pretrain are one
# process. SIGTERM and SIGUSR1 reach every process: status 75 says that all stopped with a checkpoint written, and that
# the same command goes on from it. JOBS=1, because each run takes all GPUs.
set -euo pipefail
options=()
while [[ ${1:-} == -* ]]; do options+=("$1"); shift; done
[[ $# -gt 0 ]] || { echo "usage: $0 [torchrun's options] COMMAND" >&2; exit 2; }
[[ " $* " == *" -m replicate pretrain "* ]] || exec "$@"

if [[ ${NODES:-1} -gt 1 ]]; then
  # A port of the command's own: a node that is early for the next run must not join the one before.
  port=$((20000 + $(printf '%s' "$*" | cksum | cut -d' ' -f1) % 10000))
  options+=("--nnodes=$NODES" --rdzv-backend=c10d "--rdzv-endpoint=${HEAD:?the name of a node}:$port" "--rdzv-id=$port")
else
  options+=(--standalone)
fi
python=$1 && shift
exec "$python" "$(dirname "$0")/agent.py" "${options[@]}" "$@"
