#!/bin/bash
#SBATCH --job-name=digits
#SBATCH --array=0-1
#SBATCH --time=00:10:00
#SBATCH --mem=500
#SBATCH --output=digits-%A_%a.out
#HPCTRACK --experiment=digits

# Two tasks, two learning rates.
rates=(0.01 0.1)
exec "${DIGITS_PYTHON:-python3}" "${HPCTRACK_SCRIPT%/*}/train.py" --lr "${rates[${SLURM_ARRAY_TASK_ID:-0}]}" "$@"
