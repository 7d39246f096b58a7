#!/bin/bash
# One GPU, one program.
#SBATCH --job-name=single-gpu
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
#HPCTRACK --experiment=single-gpu

set -euo pipefail

# Your own line here. Whatever can append to a file can log: in Python `hpctrack.log(step=3, loss=0.2)`.
for step in $(seq 0 9); do
    echo "step=$step loss=0.$((10 - step))" >>"$HPCTRACK_JOURNAL"
done
