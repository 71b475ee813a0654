#!/usr/bin/env bash
# Eight nodes with eight GPUs each, a worker per node: sbatch docs/cluster/slurm.sh
#SBATCH --job-name=pretrain
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-task=8
#SBATCH --cpus-per-task=32
#SBATCH --time=7-00:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --exclusive
# TensorFlow's servers listen at all addresses of a node and run whatever a client asks for, as you, without credentials
# (SECURITY.md): take nodes for yourself alone, in a network that only those reach whom you trust.
set -euo pipefail

# RUNS is a folder that all nodes see. Slurm sends SIGTERM five minutes before the end: all workers save and leave with
# 143, and the job is queued again. --kill-on-bad-exit ends the others when one dies; that is queued again too.
RUNS=${RUNS:-$HOME/runs}
code=0
srun --kill-on-bad-exit=1 ssl-keras pretrain contrastive --data folder:/data/images --image-size 224 --network resnet50 \
    --batch-size 4096 --precision mixed_bfloat16 --strategy multi_worker \
    --run images --runs "$RUNS" --interval 500 --resume || code=$?
# 1 and 2 are requests that would be refused again.
if [ "$code" -gt 2 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
