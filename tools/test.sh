#!/usr/bin/env bash
# Set up, lint and run all tests. Arguments go to pytest, such as: bash tools/test.sh -k fnet
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# one thread for each of the parallel test processes; the slow ones lie together, so that idle processes take over some
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n "${TEST_PROCESSES:-$(nproc)}" --dist worksteal "$@"
