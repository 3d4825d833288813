#!/usr/bin/env bash
# From nothing to a segmentation in minutes on a CPU: set up, make phantom scans, pretrain, train, evaluate, segment.
# Everything it makes lies in the folder quickstart/ of this repository.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
bash tools/setup.sh

out=quickstart
scans=$out/phantoms
bundle=bundles/fnet_wtacae_stl
rm -rf "$out"

run() { # run id, weights folder, files beside configs/, options
  local id=$1 weights=$2 files=$3
  shift 3
  echo
  echo "--- $id > $weights"
  .venv/bin/python -m monai.bundle run "$id" --config_file "[$files,'$bundle/configs/demo.yaml']" \
    --bundle_root "$bundle" --dataset_dir "$scans" --ckpt_dir "$weights" "$@" 2> >(grep -v "GHSA-873f" >&2)
}

.venv/bin/python -m tools.phantom "$scans" --num_training 12 --num_test 6 --num_unlabeled 24

training="'$bundle/configs/train.yaml'"
evaluation="$training,'$bundle/configs/evaluate.yaml'"
few="--num_labeled 2 --num_validation 2"
run pretraining "$out/stl" "'$bundle/configs/pretrain.yaml'"
run training "$out/stl" "$training" $few
run training "$out/scratch" "$training" $few --pretrained null
for arm in stl scratch; do
  run evaluation "$out/$arm" "$evaluation" --evaluation_dir "$out/$arm/evaluation"
done
run inference "$out/stl" "'$bundle/configs/inference.yaml'" --dataset_dir "$scans/imagesTs" --output_dir "$out/segmented"

mean() { awk -F, 'NR > 1 { sum += $NF; cases++ } END { printf "%.3f over %d held-out phantoms", sum / cases, cases }' "$1"; }
echo
echo "Dice after training on 2 labeled phantoms:"
echo "  from pretrained autoencoders (S-TL): $(mean $out/stl/evaluation/mean_dice_raw.csv)"
echo "  from scratch:                        $(mean $out/scratch/evaluation/mean_dice_raw.csv)"
echo "(one seed on toy data: for what pretraining is worth on real scans, see $bundle/docs/README.md)"
echo "Look at:"
find "$out" -name '*.png' | sort | sed 's/^/  /'
echo "Segmentations: $out/segmented. It took $((SECONDS - started)) s."
