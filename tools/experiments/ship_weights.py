"""Put trained networks into the bundles that they belong to, each with what a user must know of it.

    python -m tools.experiments.ship_weights studies/weights --data_license LICENSE_OF_THE_DATA

The runs are those of a study whose arms have the names of bundles. What inference needs comes into
`bundles/<name>/models/<data set>`, beside `weights.md`, which has the data, the commands, the scores and the checksum,
and the licence of the data.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import shutil
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.cli import InputError, MissingFileError
from common.data.files import hash_file, write_folder
from tools._command import all_bundles, run_command
from tools.export.weights import list_weights

__all__ = ["ship_weights"]

_MOST_BYTES = 10_000_000  # of the files of a network


def ship_weights(study_dir: str, *, data_license: str, commit: str | None = None) -> str:
    """Put the networks of a study into their bundles.

    Args:
        study_dir: the `output_dir` of a study whose arms have the names of bundles, each with one run; one that is not
            scored yet is left out.
        data_license: text file, the licence of the data.
        commit: with which the study was run; the one that is checked out if not given.

    Returns:
        What was written.
    """
    text = Path(data_license).read_text(encoding="utf-8")
    commit = commit or _git("rev-parse", "HEAD")
    written = []
    for bundle in all_bundles():
        scored = Path(study_dir).glob(f"runs/{bundle.name}_n*/evaluation/done.json")
        runs = sorted(path.parents[1] for path in scored)
        if len(runs) > 1:
            raise InputError(f"{study_dir}: must have one run of {bundle.name}, got {len(runs)}; leave one draw")
        written += [str(_ship(run, bundle, text, commit)) for run in runs]
    if not written:
        raise MissingFileError(f"{study_dir}: must have runs whose arms are bundles, got none; name the arms so")
    return "\n".join(written)


def _ship(run: Path, bundle: Path, data_license: str, commit: str) -> Path:
    """Copy what the inference of a run needs into its bundle, and describe it."""
    done = _read(run / "done.json")
    described = _read(Path(done["options"]["dataset_dir"]) / "dataset.json")
    files = list_weights(run, {})
    size = sum((run / file).stat().st_size for file in files)
    if size > _MOST_BYTES:
        raise InputError(f"{run}: must have at most {_MOST_BYTES:.0e} bytes, got {size}; train a smaller network")

    def write(folder: Path) -> None:
        for file in files:
            shutil.copyfile(run / file, folder / file)
        (folder / "data_license.txt").write_text(data_license, encoding="utf-8")
        (folder / "weights.md").write_text(_describe(run, done, described, commit), encoding="utf-8")

    return write_folder(bundle / "models" / described["name"], write)


def _describe(run: Path, done: Mapping[str, Any], dataset: Mapping[str, Any], commit: str) -> str:
    """Return what a user must know of a network, in Markdown."""
    name, record, licence = dataset["name"], _read(run / "record.json"), dataset["licence"]
    scores, num_cases = _read_scores(run / "evaluation" / "mean_dice_raw.csv")
    pretraining = run.parents[1] / "pretraining"
    jobs = [*map(_read, sorted(pretraining.glob("*/done.json"))), done, _read(run / "evaluation" / "done.json")]
    commands = "\n".join(
        _command(job["command"], done["options"]["dataset_dir"], name)
        for job in jobs
        if job["options"]["bundle_root"] == done["options"]["bundle_root"]
    )
    minutes = math.ceil(done["seconds"] / 60)
    seed, num_learned = done["options"]["seed"], len(record["learned_from"])
    return f"""# Weights trained on {name}

{dataset["description"]} Its licence, {licence}: [data_license.txt](data_license.txt).

Learned from {num_learned} labeled scans. Dice of this one network (seed {seed}) on the {num_cases} test cases, which no
training has seen:

| {" | ".join(scores)} |
|{"---|" * len(scores)}
| {" | ".join(f"{score:.3f}" for score in scores.values())} |

Made by commit {commit[:12]}, from the folder of the repository, in {minutes} min of one CPU core:

```bash
{commands}
```

SHA-256 of `model.pt`: `{hash_file(run / "model.pt")}`

`record.json` holds the names of the cases, checksums of their scans, and the range of their organs' volumes, so that an
evaluation on a case that was learned from is refused and an implausible segmentation is named.
"""


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_scores(path: Path) -> tuple[dict[str, float], int]:
    """Return the mean score of each class and of their means, and the number of cases."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    scores = {}
    for name in rows[0]:
        if name != "filename":
            scores[name] = statistics.fmean(value for row in rows if not math.isnan(value := float(row[name])))
    return scores, len(rows)


def _command(arguments: list[str], dataset_dir: str, name: str) -> str:
    replaced = {arguments[0]: "python", dataset_dir: f"DIR/{name}"}
    return " ".join(shlex.quote(replaced.get(argument, argument)) for argument in arguments)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    run_command(ship_weights)
