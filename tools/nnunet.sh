#!/usr/bin/env bash
# Train nnU-Net v2 for some minutes of CPU time on the cases that a bundle would take, and score it on the same cases:
#
#   bash tools/nnunet.sh training --dataset_dir DIR --output_dir OUT --num_labeled 4 --fold 0 --minutes 10
#   bash tools/nnunet.sh evaluation --dataset_dir DIR --output_dir OUT --num_labeled 4 --fold 0
#
# nnU-Net lives in .venv-nnunet, which sees the packages of .venv, PyTorch among them; --setup makes it and no more. All
# options: bash tools/nnunet.sh --help.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
environment=$root/.venv-nnunet
requirements=$root/tools/nnunet/requirements.txt

if [ ! -f "$environment/.complete" ] || [ "$requirements" -nt "$environment/.complete" ]; then
  bash "$root/tools/setup.sh"
  echo "setting up $environment (downloads nnU-Net v2 once, 0.4 GB; a minute)"
  "$root/.venv/bin/python" -m venv "$environment"
  packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$root/.venv/bin/python" -c "$packages" > "$("$environment/bin/python" -c "$packages")/project.pth"
  "$environment/bin/python" -m pip install --quiet --requirement "$requirements"
  # without what they ask for: torchvision, for networks that are not used here, and with it a second PyTorch
  "$environment/bin/python" -m pip install --quiet --no-deps nnunetv2==2.8.1 dynamic-network-architectures==0.4.4
  touch "$environment/.complete"
fi
if [ "${1:-}" = --setup ]; then exit; fi

export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$environment/bin/python" -m tools.nnunet "$@"
