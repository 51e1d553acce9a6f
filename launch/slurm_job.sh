#!/usr/bin/env bash
# What runs inside a job of slurm.sh or slurm_array.sh: the command, in each of the job's tasks if it trains, else one.
# srun starts the processes, with no torchrun between, so that Slurm's signals reach Python itself.
set -uo pipefail
trap : TERM USR1 # this script outlives the notice, to read the status; children do not inherit a trap, unlike `ignore`

if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then # slurm_array.sh gives all runs, and this task's is one of them
  runs=($ARRAY_RUNS)
  set -- "$@" "${runs[SLURM_ARRAY_TASK_ID]}"
  job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # the plain number of an array's last task means the whole array
else
  job=$SLURM_JOB_ID
fi

export MASTER_ADDR MASTER_PORT
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over
tasks=(--nodes=1 --ntasks=1)
[[ " $* " != *" -m replicate pretrain "* ]] || tasks=()
# A process that dies takes the others along, which would wait for it for ever; two minutes are for their checkpoint.
srun "${tasks[@]}" --kill-on-bad-exit=0 --wait=120 bash -c \
  'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS LOCAL_RANK=$SLURM_LOCALID exec "$@"' task "$@"
status=$?

# 75: stopped by a signal, checkpoint written. 138: SIGUSR1 killed it. A training was still starting then, nothing is
# lost; another stage would begin the cell that did not fit into --time again for ever, so it ends with that status.
# A job that Slurm is ending is no longer RUNNING: it was preempted, and Slurm queues it again itself, or cancelled.
if [[ $status == 138 && " $* " != *" -m replicate pretrain "* ]]; then
  echo "job $job: stopped in the middle of a cell: give it a longer --time; what is finished counts as done"
elif [[ ($status == 75 || $status == 138) && $(squeue --noheader --job="$job" --format=%T) == RUNNING ]]; then
  echo "job $job: to be continued"
  scontrol requeue "$job" && sleep 60 # Slurm ends this script; its status would be the job's
fi
exit "$status"
