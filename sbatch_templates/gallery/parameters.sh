#!/bin/bash
# An array of parameters: each task takes one line of the table below.
#SBATCH --job-name=parameters
#SBATCH --array=0-3
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=01:00:00
#SBATCH --output=%x-%A_%a.out
#HPCTRACK --experiment=parameters

set -euo pipefail

table=(
    "lr=0.1   width=64"
    "lr=0.1   width=128"
    "lr=0.01  width=64"
    "lr=0.01  width=128"
)
parameters=${table[$SLURM_ARRAY_TASK_ID]}
echo "parameters: $parameters"

# The parameters stand beside each row of results; in Python, `hpctrack.set_args({...})` keeps them once.
echo "step=0 $parameters loss=0.5" >>"$HPCTRACK_JOURNAL"
