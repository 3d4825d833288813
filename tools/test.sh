#!/usr/bin/env bash
# Set up, lint and run all tests, or with --quick all but the slow ones. Further arguments go to pytest, such as:
#   bash tools/test.sh --quick -k fnet
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --quick ]; then
  shift
  set -- -m "not slow" "$@"
fi
bash tools/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# one thread for each of the parallel test processes; the slow ones lie together, so that idle processes take over some
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n "${TEST_PROCESSES:-$(env -u OMP_NUM_THREADS nproc)}" --dist worksteal "$@"
