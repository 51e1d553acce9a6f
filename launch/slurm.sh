#!/usr/bin/env bash
# A job of Slurm for each run, as a prefix of the command; make keeps as many in the queue as JOBS says:
#   make pretrain PROFILE=paper JOBS=110 LAUNCH='launch/slurm.sh --nodes=1 --ntasks-per-node=8 --gpus-per-node=8 \
#     --cpus-per-task=12 --time=24:00:00'
# Words before the command that begin with - are sbatch's options (--name=value; SBATCH_PARTITION and the like work
# too). One task a GPU, each sees all of its node (--gpus-per-node, not --gpus-per-task); without --ntasks one process.
# Two minutes before its time is over, or when it is preempted, a training gets a signal, writes its checkpoint and is
# queued again (launch/slurm_job.sh), until it is done: --time may be shorter than a training.
# Interrupted here (Ctrl-C, a lost terminal) the job lives on. The same command again waits for it (singleton) and finds
# the work done; scancel ends it. What jobs print is in runs/slurm/; its end is repeated here.
set -euo pipefail
options=()
while [[ ${1:-} == -* ]]; do options+=("$1"); shift; done
[[ $# -gt 0 ]] || { echo "usage: $0 [sbatch's options] COMMAND" >&2; exit 2; }
logs=${REPLICATE_HOME:-.}/runs/slurm
mkdir -p "$logs"
command=$*
name=${command#*-m replicate }
status=0
job=$(sbatch --wait --parsable --requeue --signal=USR1@120 --open-mode=append --output="$logs/%j.out" \
  --dependency=singleton --job-name="${name// /_}" "${options[@]}" "$(dirname "$0")/slurm_job.sh" "$@") || status=$?
[[ -z $job ]] || tail -n 5 "$logs/${job%%;*}.out"
exit "$status"
