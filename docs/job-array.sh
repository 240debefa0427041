#!/bin/sh
# One student of a comparison an array element; `kdcore report` joins them afterwards.
#
#   kdcore compare experiment.toml --list            # how many there are, N
#   sbatch --array=0-$((N - 1)) docs/job-array.sh experiment.toml runs
#   kdcore report runs
#
#SBATCH --job-name=kdcore
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -eu

# exec: the scheduler's signal reaches kdcore itself, which saves the training and stops.
exec kdcore compare "$1" --only "$SLURM_ARRAY_TASK_ID" --out "$2"
