#!/usr/bin/env bash
# Make .venv beside this repository's README, with the library, its dependencies and the tools for development.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ ! -f .venv/.complete ] || [ setup.cfg -nt .venv/.complete ]; then
  echo "setting up .venv (downloads PyTorch and MONAI once; a few minutes)"
  "${PYTHON:-python3}" -m venv .venv
  .venv/bin/python -m pip install --quiet --editable '.[dev]'
  touch .venv/.complete
fi
