#!/usr/bin/env bash
# Run all that wants a GPU, in one call of less than ten minutes, and write a JSON file; see tools/gpu_check.py:
#
#   bash tools/gpu.sh gpu.json
#
# PYTHON names another interpreter than that of .venv, which tools/setup.sh makes.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m tools.gpu_check "$@"
