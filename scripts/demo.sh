#!/bin/sh
# What `make demo` shows: a real training, tracked from sbatch to Slurm's last word. Needs `hpctrack` and a
# python3 with scikit-learn on PATH; brings up whatever else is missing.
set -eu
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }

if scontrol ping >/dev/null 2>&1; then
    say "a Slurm cluster is here: $(scontrol show config | sed -n 's/^ClusterName *= *//p')"
elif [ "$(id -u)" = 0 ]; then
    say "no Slurm here: starting the mini cluster (make cluster-stop ends it)"
    scripts/minicluster.py start >&2
    eval "$(scripts/minicluster.py env)"
    # Everything is on this one machine, so nothing needs to listen beyond it.
    export HPCTRACK_EMBEDDED_LISTEN=127.0.0.1 HPCTRACK_COLLECTOR_BIND=127.0.0.1
else
    say "neither Slurm nor root here: tracking the training with 'hpctrack run' instead of 'hpctrack sbatch'"
    export HPCTRACK_EMBEDDED_LISTEN=127.0.0.1 HPCTRACK_COLLECTOR_BIND=127.0.0.1
    hpctrack run --experiment digits -- python3 examples/digits/train.py --lr 0.1 --pause 0.05
    hpctrack status --experiment digits --limit 5
    run=$(hpctrack status --experiment digits --limit 1 --json |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["runs"][0]["run"])')
    hpctrack show "$run"
    hpctrack show "$run" --plot loss
    exit
fi

mkdir -p build
say "hpctrack sbatch examples/digits/train.sh"
job=$(hpctrack sbatch --parsable --output="build/digits-%A_%a.out" examples/digits/train.sh)
job=${job%%;*}
echo "$job"

say "hpctrack status $job --watch   (until both tasks have ended)"
hpctrack status "$job" --watch

say "hpctrack status"
hpctrack status "$job"

say "hpctrack show ${job}_1"
hpctrack show "${job}_1"

say "hpctrack show ${job}_1 --plot loss"
hpctrack show "${job}_1" --plot loss
