"""Which variables differ between two jobs, tracked or not."""

#: An extended regular expression for their names. Slurm 25.11 and newer tell the job's times and its SLUID.
OF_ONE_JOB = "HPCTRACK_.*|PYTHONPATH|SLURM_(JOB_?ID|JOB_SLUID|JOB_(START|END)_TIME|TASK_PID)|_"
