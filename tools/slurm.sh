#!/usr/bin/env bash
# Run a bundle on all GPUs of some machines under SLURM. From the folder of the repository, which all machines see:
#
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=24:00:00 tools/slurm.sh \
#     fnet_wtacae_stl training train.yaml --dataset_dir /data/ct --ckpt_dir /data/models
#
# The name of the bundle, the workflow, the files in configs/, and options. The same again goes on after an interruption.
#SBATCH --ntasks-per-node=1
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
bundle=bundles/$1 workflow=$2 files="['$bundle/configs/${3//,/\',\'$bundle/configs/}']"
shift 3

host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((10000 + SLURM_JOB_ID % 50000)) # of its own for each job
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  .venv/bin/python -m torch.distributed.run --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$host:$port" \
  -m monai.bundle run "$workflow" --config_file "$files" --bundle_root "$bundle" "$@"
