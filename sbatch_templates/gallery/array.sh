#!/bin/bash
# An array: one run per task, at most four at a time.
#SBATCH --job-name=array
#SBATCH --array=0-9%4
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=01:00:00
#SBATCH --output=%x-%A_%a.out
#HPCTRACK --experiment=array

set -euo pipefail

input="part-$SLURM_ARRAY_TASK_ID.csv"
echo "working on $input"
echo "step=0 task=$SLURM_ARRAY_TASK_ID" >>"$HPCTRACK_JOURNAL"
