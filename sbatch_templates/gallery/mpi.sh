#!/bin/bash
# An MPI program on several nodes; by default only rank 0 logs.
#SBATCH --job-name=mpi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --mem-per-cpu=1G
#SBATCH --time=02:00:00
#SBATCH --output=%x-%j.out
#HPCTRACK --experiment=mpi

set -euo pipefail

# Your own program here: srun ./solver input.dat
srun sh -c 'echo "rank $SLURM_PROCID of $SLURM_NTASKS on $(hostname)"'
echo "step=0 ranks=$SLURM_NTASKS" >>"$HPCTRACK_JOURNAL"
