#!/bin/bash
#SBATCH --job-name=sweep
#SBATCH --array=0-23%6
#SBATCH --time=00:10:00
#SBATCH --mem=300
#SBATCH --output=sweep-%A_%a.out
#HPCTRACK --experiment=sweep --tag=softmax

# Six learning rates by four penalties.
rates=(0.001 0.003 0.01 0.03 0.1 0.3)
penalties=(1e-4 1e-3 1e-2 1e-1)
task=${SLURM_ARRAY_TASK_ID:-0}
exec "${DIGITS_PYTHON:-python3}" "${HPCTRACK_SCRIPT%/*}/train.py" --pause 0.05 \
    --lr "${rates[task % 6]}" --alpha "${penalties[task / 6]}" "$@"
