#!/usr/bin/env bash
# Serve bundles in MONAI Label, on this machine alone:
#
#   bash tools/label.sh BUNDLE... --studies DIR [--app DIR] [--port N] [--override_files configs/small.yaml] [--setup]
#
# BUNDLE is one of this repository with weights in its models/, or a folder that tools.export has made; DIR holds the
# scans. What the server trains stays in --app (label/ if not given): started again, it goes on with these weights.
# MONAI Label lives in .venv-label, apart from .venv, since it needs other versions; --setup makes it and no more.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
environment=$root/.venv-label
app=$root/label port=8000 studies="" setup_only=false
bundles=() export_options=()

while [ $# -gt 0 ]; do
  case $1 in
    --setup) setup_only=true ;;
    --studies | --app | --port | --override_files)
      [ $# -gt 1 ] || { echo "error: $1 must be followed by a value" >&2; exit 2; }
      case $1 in
        --studies) studies=$2 ;;
        --app) app=$2 ;;
        --port) port=$2 ;;
        --override_files) export_options+=(--override_files "$2") ;;
      esac
      shift
      ;;
    -*) echo "error: options must be --studies, --app, --port, --override_files or --setup, got $1" >&2; exit 2 ;;
    *) bundles+=("$1") ;;
  esac
  shift
done

requirements=$root/tools/label/requirements.txt
if [ ! -f "$environment/.complete" ] || [ "$requirements" -nt "$environment/.complete" ]; then
  echo "setting up $environment (downloads MONAI Label and PyTorch with CUDA once, 8 GB; minutes)"
  "${PYTHON:-python3}" -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --requirement "$requirements"
  touch "$environment/.complete"
fi
if $setup_only; then exit; fi

[ ${#bundles[@]} -gt 0 ] || { echo "error: at least one BUNDLE must be named, got none" >&2; exit 2; }
[ -d "$studies" ] || { echo "error: --studies must be a folder of scans, got '$studies'" >&2; exit 2; }
mkdir -p "$app/model"
app=$(realpath "$app") studies=$(realpath "$studies") # before the folder changes
cp "$root/tools/label/app.py" "$app/main.py"
cp "$root/tools/label/strategy.py" "$root/tools/label/validation.py" "$app/"
names=()
for bundle in "${bundles[@]}"; do
  name=$(basename "$bundle")
  names+=("$name")
  if [ -d "$app/model/$name" ]; then
    echo "$name: goes on with the weights in $app/model/$name"
  elif [ -d "$bundle/scripts" ]; then
    cp -r "$bundle" "$app/model/$name"
  else
    bash "$root/tools/setup.sh"
    (cd "$root" && .venv/bin/python -m tools.export "$name" --output "$app/model" "${export_options[@]}")
  fi
done
export PATH="$environment/bin:$PATH"
# studies: what the bundles read; MONAI Label lists no .mha and no .mhd by itself
extensions='"*.nii.gz", "*.nii", "*.nrrd", "*.mha", "*.mhd", "*.png"'
export MONAI_LABEL_DATASTORE_FILE_EXT="${MONAI_LABEL_DATASTORE_FILE_EXT:-[$extensions, ${extensions^^}]}"
cd "$app" # so that Python finds nothing of this repository
# not its own command, which puts this repository on the path of Python, and tears names with spaces
exec python -m monailabel.main start_server --app "$app" --studies "$studies" --host 127.0.0.1 --port "$port" \
  --conf models "$(IFS=,; echo "${names[*]}")" --conf zoo_source local --conf sam2 false
