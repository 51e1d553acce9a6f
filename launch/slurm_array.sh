#!/usr/bin/env bash
# The whole grid, or a part of it, as one array of Slurm, a task for each run; nothing waits here:
#   make data PROFILE=paper
#   PROFILE=paper AT_ONCE=16 launch/slurm_array.sh --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12 --time=24:00:00 [RUNS]
#   PROFILE=paper STAGE=evaluate launch/slurm_array.sh --gpus-per-node=1 --cpus-per-task=12 --dependency=afterany:JOB
#   make compile PROFILE=paper
# RUNS are names or globs, all if left out; words that begin with - are sbatch's options (--name=value, see slurm.sh).
# STAGE is pretrain, evaluate, finetune (table 3's runs only) or rank-runs; SEEDS as in make; AT_ONCE limits the tasks
# that run at a time.
# A task that is preempted or runs out of time is queued again alone, and goes on from its checkpoint.
set -euo pipefail
options=()
while [[ ${1:-} == -* ]]; do options+=("$1"); shift; done
replicate=(.venv/bin/python -m replicate)
profile=${PROFILE:-mini}
names=(--names)
[[ ${STAGE:-} != finetune ]] || names+=(--finetuned)
ARRAY_RUNS=$("${replicate[@]}" grid "${names[@]}" --profile "$profile" -- "$@" | tr '\n' ' ')
export ARRAY_RUNS
runs=($ARRAY_RUNS)
[[ ${#runs[@]} -gt 0 ]] || { echo "$0: none of these runs has a stage ${STAGE:-pretrain} in $profile" >&2; exit 2; }
logs=${REPLICATE_HOME:-.}/runs/slurm
mkdir -p "$logs"
sbatch --parsable --requeue --signal=USR1@120 --open-mode=append --output="$logs/%A_%a.out" \
  --array="0-$((${#runs[@]} - 1))${AT_ONCE:+%$AT_ONCE}" --job-name="${STAGE:-pretrain}_$profile" "${options[@]}" \
  "$(dirname "$0")/slurm_job.sh" "${replicate[@]}" "${STAGE:-pretrain}" --profile "$profile" --seeds "${SEEDS:-0}" --
