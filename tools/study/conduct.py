"""Run the jobs of a study side by side, and remember which are finished."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import InputError
from tools.study.engines import LostRun, Runner
from tools.study.plan import Job, Run
from tools.study.report import read_dice

__all__ = ["Command", "conduct", "is_finished", "jobs_of", "read_record"]

Command = Callable[[Sequence[str], Path], tuple[int, float]]
REPETITIONS = 4  # of a run whose machine is lost: one that takes its machine down shall not do so for ever


@dataclass
class Outcome:
    """End of a job; `problem` is None when it succeeded."""

    seconds: float
    problem: str | None


def jobs_of(runs: Iterable[Run]) -> list[Job]:
    """List the pretrainings, for which others wait, and then each training with what it needs, and its evaluation."""
    runs = list(runs)
    jobs: dict[str, Job] = {}

    def add(job: Job) -> None:
        for need in job.needs:
            add(need)
        jobs.setdefault(job.name, job)

    for job in [run.pretraining for run in runs if run.pretraining is not None]:
        add(job)
    for run in runs:
        add(run.evaluation)
    return [*jobs.values()]


def is_finished(job: Job) -> bool:
    return job.done_path.is_file() and all(is_finished(need) for need in job.needs)


def read_record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} must be JSON, got: {error}; remove its folder to repeat the run") from error


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    from common.data import write_atomically

    text = json.dumps(record, indent=1)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def conduct(jobs: Sequence[Job], runner: Command, workers: int, resume: bool) -> list[str]:
    """Run what is not finished yet; a job that fails stops only those that need it.

    Args:
        jobs: what to run, most urgent first; a job comes after those it needs.
        runner: takes a command and the path of its log, returns the exit status and the seconds; see `Runner`.
        workers: number of jobs at a time.
        resume: keep the jobs that are finished.

    Returns:
        Names of the jobs that failed or were skipped.
    """
    finished = {job.name for job in jobs if resume and is_finished(job)}
    for job in jobs:
        if job.name in finished:
            _check_unchanged(job)
    waiting = [job for job in jobs if job.name not in finished]
    progress = _Progress(jobs, waiting, workers)
    lost: list[str] = []
    running: dict[Future[Outcome], Job] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or running:
                for job in [job for job in waiting if all(need.name in finished for need in job.needs)]:
                    if len(running) < workers:
                        waiting.remove(job)
                        running[pool.submit(_perform, job, runner, resume)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, outcome = running.pop(future), future.result()
                    progress.tell(job, outcome)
                    if outcome.problem is None:
                        finished.add(job.name)
                    else:
                        lost += [job.name, *_skip(waiting, job.name)]
        except BaseException:
            if isinstance(runner, Runner):
                runner.stop()
            raise
    return lost


def _skip(waiting: list[Job], failed: str) -> list[str]:
    skipped: list[str] = []
    for job in [*waiting]:
        missing = [need.name for need in job.needs if need.name in (failed, *skipped)]
        if missing:
            waiting.remove(job)
            skipped.append(job.name)
            print(f"skipped {job.name}: it needs {missing[0]}", flush=True)
    return skipped


def _perform(job: Job, runner: Command, resume: bool) -> Outcome:
    log_path = job.folder / "log.txt"
    for repetition in range(REPETITIONS + 1):
        starts = _prepare(job, resume or repetition > 0)
        try:
            status, seconds = runner(job.command, log_path)
            break
        except LostRun as error:
            print(f"{job.name}: lost with its machine ({error})", flush=True)
    else:
        return Outcome(0.0, f"its machine was lost {REPETITIONS + 1} times")
    if status != 0:
        return Outcome(seconds, f"exit status {status}: {_last_line(log_path)}")
    if job.product is not None and not job.product.is_file():
        return Outcome(seconds, f"exit status 0, but it left no {job.product}")
    if job.run_id == "evaluation" and job.product is not None:
        try:
            read_dice(job.product)
        except ValueError as error:
            return Outcome(seconds, f"exit status 0, but {error}")
    record = {"command": job.command, "seconds": seconds, "exit_status": 0, "starts": starts, "options": job.settings}
    _write_record(job.done_path, record)
    return Outcome(seconds, None)


def _prepare(job: Job, resume: bool) -> int:
    """Make the folder of a job, and return how often the job has been started in it.

    A bundle resumes from the checkpoints that it finds. Those of other options, and those of a run whose pretraining
    has been repeated, are therefore moved aside.
    """
    started_path = job.folder / "started.json"
    started = read_record(started_path) if started_path.is_file() else None
    if started is not None and (
        not resume or job.done_path.is_file() or _plain(started["options"]) != _plain(job.settings)
    ):
        number = 1
        while (aside := job.folder.with_name(f"{job.folder.name}.old{number}")).exists():
            number += 1
        job.folder.rename(aside)
        started = None
    job.folder.mkdir(parents=True, exist_ok=True)
    starts = 1 if started is None else started["starts"] + 1
    _write_record(started_path, {"starts": starts, "options": job.settings})
    return starts


def _check_unchanged(job: Job) -> None:
    before, now = _plain(read_record(job.done_path)["options"]), _plain(job.settings)
    changed = [key for key in {**before, **now} if (key in before, before.get(key)) != (key in now, now.get(key))]
    if changed:
        listed = ", ".join(f"{key}: {before.get(key, 'not given')} -> {now.get(key, 'not given')}" for key in changed)
        raise InputError(
            f"{job.name} must keep the options that it was finished with, got {listed}; "
            "use another output_dir, or repeat everything with --resume False"
        )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings as JSON has them, the folder of the data being the same in whatever way it is named."""
    plain = json.loads(json.dumps(settings))
    if isinstance(plain.get("dataset_dir"), str):
        plain["dataset_dir"] = str(Path(plain["dataset_dir"]).resolve())
    return plain


def _last_line(path: Path, num_bytes: int = 65536) -> str:
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - num_bytes))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][-500:] if lines else "its log is empty"


class _Progress:
    """Progress in the terminal: a line for each job that ends, with the time so far and an estimate of the rest."""

    def __init__(self, jobs: Sequence[Job], waiting: Sequence[Job], workers: int) -> None:
        self.began = time.perf_counter()
        self.workers = workers
        self.num_jobs = len(jobs)
        self.rest = {job.name: job.run_id for job in waiting}
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for job in jobs:
            if job.name not in self.rest:
                self.seconds[job.run_id].append(read_record(job.done_path)["seconds"])
        if jobs and len(waiting) < len(jobs):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs were finished before", flush=True)

    def tell(self, job: Job, outcome: Outcome) -> None:
        del self.rest[job.name]
        if outcome.problem is None:
            self.seconds[job.run_id].append(outcome.seconds)
        verdict = "done" if outcome.problem is None else "FAILED"
        minutes, elapsed = outcome.seconds / 60, (time.perf_counter() - self.began) / 60
        line = f"[{self.num_jobs - len(self.rest)}/{self.num_jobs}] {job.name}: {verdict} in {minutes:.1f} min "
        line += f"(elapsed {elapsed:.1f} min{self._estimate()})"
        print(line if outcome.problem is None else f"{line}, {outcome.problem}", flush=True)

    def _estimate(self) -> str:
        known = [seconds for times in self.seconds.values() for seconds in times]
        if not known:
            return ""
        times = [self.seconds.get(run_id) or known for run_id in self.rest.values()]
        return f", about {sum(sum(group) / len(group) for group in times) / self.workers / 60:.1f} min left"
