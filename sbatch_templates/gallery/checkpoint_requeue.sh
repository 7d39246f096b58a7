#!/bin/bash
# Longer than its time limit: saved and requeued two minutes before it.
# Slurm sends USR1 then. hpctrack shows one run with several attempts, whose metrics go on.
#SBATCH --job-name=checkpoint-requeue
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
#HPCTRACK --experiment=checkpoint-requeue

set -euo pipefail

checkpoint="checkpoint-$SLURM_JOB_ID"
last=${LAST_STEP:-1000000}

again() {
    echo "saved at step $step, the job goes on later"
    echo "$step" >"$checkpoint"
    scontrol requeue "$SLURM_JOB_ID"
    # Slurm ends this execution now: nothing may happen twice.
    sleep infinity &
    wait
}
trap again USR1

# Your own program here: start it in the background and `wait`, so that the trap runs at once.
step=0
[ ! -e "$checkpoint" ] || step=$(cat "$checkpoint")
echo "attempt ${SLURM_RESTART_COUNT:-0} begins at step $step"
while [ "$step" -lt "$last" ]; do
    step=$((step + 1))
    echo "step=$step loss=0.5" >>"$HPCTRACK_JOURNAL"
    sleep 1 &
    wait $!
done
rm -f "$checkpoint"
