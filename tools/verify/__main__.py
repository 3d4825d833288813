"""Check bundles before they are shared or a long run begins, without a network or data.

    python -m tools.verify            # all of bundles/
    python -m tools.verify fnet_wtacae_stl exported/my_bundle

A bundle is named, or given as a folder: one of this repository, an exported one, or any other MONAI bundle. Its network
is built, which runs its code. What the Model Zoo's `verify_bundle.py` checks:

- the files that every bundle has, `models/model.pt` and those that `large_files.yml` lists among them
- the metadata fit the schema; the changelog has the version, and `model_info.json`, where it lies beside, does not
- `network_def` of the inference takes and gives what the metadata say
- TorchScript compiles it with the weights (`monai.bundle ckpt_export`), unless the metadata say why not in
  `no_torchscript`, as the Model Zoo has a list of such bundles; `models/model.ts`, when it is there, can be read

and what it does not:

- Python lies in `scripts/` only; `models/model.pt` holds no code; its TorchScript computes the same
- training and inference have the ids that MONAI requires and applications such as MONAI Label use
- validation, evaluation and inference have the same network, options and preprocessing
- references lead somewhere, and what an override names is there or is used
- each `_target_` exists and takes its arguments; no `$` holds a loop or a lambda
- the ids by which commands drive workflows are the same in all the bundles

One line for each finding; the exit status is 1 when there are any.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from common.cli import MissingPackageError
from tools._command import all_bundles, find_bundle, run_command


def verify(*bundles: str) -> None:
    """Check bundles, print what is wrong with them, and end with status 1 when anything is.

    Args:
        bundles: names of folders in bundles/, or paths of bundles; none: all of bundles/.
    """
    if find_spec("jsonschema") is None:
        raise MissingPackageError("jsonschema must be installed to check metadata, got none; pip install jsonschema")
    from tools.verify.findings import find_all

    roots = [find_bundle(bundle) for bundle in bundles] or all_bundles()
    num_findings = 0
    for finding in find_all(roots):
        print(finding, flush=True)
        num_findings += 1
    print(f"{_count(len(roots), 'bundle')}, {_count(num_findings, 'finding')}")
    if num_findings:
        sys.exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    run_command(verify)
