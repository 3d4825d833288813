#!/usr/bin/env bash
# What this collection is for, in minutes of two CPU cores: tumors are found without a single mask, then organs are
# learned from one labeled scan and 24 scans without a label. All scans are phantoms, which it draws.
# Everything it makes lies in the folder quickstart/ of this repository. Stopped, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
export OMP_NUM_THREADS=1 # two processes work at a time
bash tools/setup.sh
python=.venv/bin/python out=quickstart
mkdir -p "$out"

run() { # run id, weights folder, names of config files of the tumors' bundle, options
  local id=$1 weights=$2 bundle=bundles/layer_decomp_tumor files="" name
  for name in $3 demo; do files+="'$bundle/configs/$name.yaml',"; done
  shift 3
  echo "--- $id > $weights"
  $python -m monai.bundle run "$id" --config_file "[${files%,}]" --bundle_root "$bundle" --ckpt_dir "$weights" \
    --dataset_dir "$out/lesions" "$@" 2> >(grep -v "GHSA-873f" >&2)
}

mean() { awk -F, 'NR > 1 { sum += $NF; cases++ } END { printf "%.2f over %d phantoms", sum / cases, cases }' "$1"; }

echo "=== 1. Tumors without a mask: layers of simulated ones are learned on livers without any"
[ -d "$out/lesions" ] || $python -m tools.phantom "$out/lesions" --lesions --num_training 4 --num_test 6 --num_unlabeled 0 --num_normal 24
tumors=$out/tumors
run training "$tumors/scratch" train --num_labeled 3 --pretrained null > "$out/scratch.log" 2>&1 & # with masks, for comparison
other=$!
trap 'kill "$other" 2> /dev/null || true' EXIT
run pretraining "$tumors/no_mask" pretrain
wait "$other" || { tail -n 20 "$out/scratch.log"; exit 1; }
trap - EXIT
run evaluation "$tumors/no_mask" "train evaluate zero_shot" --evaluation_dir "$tumors/no_mask/evaluation"
run evaluation "$tumors/scratch" "train evaluate" --evaluation_dir "$tumors/scratch/evaluation"

echo "=== 2. Organs from one labeled scan, and 24 without a label: self-training"
[ -d "$out/phantoms" ] || $python -m tools.phantom "$out/phantoms" --native --num_training 12 --num_test 8 --num_unlabeled 24
organs=$out/organs
$python -m tools.self_training --dataset_dir "$out/phantoms" --output_dir "$organs" --num_labeled 1 --num_unlabeled 24 \
  --epochs 16 --workers 2

echo
echo "Dice of tumors in the liver, without a mask:         $(mean $tumors/no_mask/evaluation/mean_dice_raw.csv)"
echo "  from scratch, with the masks of three scans:       $(mean $tumors/scratch/evaluation/mean_dice_raw.csv)"
for arm in self_training scratch; do
  [ $arm = scratch ] && what="  the same network from the labeled scan alone:      " || what="Dice of organs, one labeled scan and 24 without:     "
  echo "$what$(mean $organs/runs/${arm}_n1_fold0_seed0/evaluation/mean_dice_raw.csv)"
done
echo "(one seed on phantoms; on real scans: docs/which.md)"
echo "Look at:"
find "$tumors/no_mask/evaluation" "$organs/runs/self_training_n1_fold0_seed0/evaluation" -name '*.png' | sort | sed 's/^/  /'
echo "  $organs/report.html"
echo "It took $((SECONDS - started)) s."
