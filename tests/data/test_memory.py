"""Laws of the memory that is free: the smallest of what the machine and each limit leave."""

from __future__ import annotations

import pytest

from common.data import free_memory, memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that writes what a system tells: 8 GiB are free, and the files of its control groups."""
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {8 * 2**20} kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")

    def _machine(own, **files):
        (tmp_path / "cgroup").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))

    return _machine


def test_without_a_limit_it_is_what_the_machine_has(machine):
    machine("0::/", memory_DOT_max="max\n", memory_DOT_current=GIB)
    assert free_memory("cpu") == 8 * GIB


def test_a_limit_counts_and_files_that_the_system_gives_back_do_not(machine):
    stat = f"anon 5\ninactive_file {GIB // 2}\n"
    machine("0::/", memory_DOT_max=4 * GIB, memory_DOT_current=3 * GIB, memory_DOT_stat=stat)
    assert free_memory("cpu") == 1.5 * GIB


def test_the_limit_of_a_group_above_counts_too(machine):
    inner = {"jobs__job_1__memory_DOT_max": "max", "jobs__job_1__memory_DOT_current": 2 * GIB}
    machine("0::/jobs/job_1\n", **inner, jobs__memory_DOT_max=5 * GIB, jobs__memory_DOT_current=3 * GIB)
    assert free_memory("cpu") == 2 * GIB


def test_limits_of_the_first_version_count(machine):
    names = {"memory__a__memory_DOT_limit_in_bytes": 3 * GIB, "memory__a__memory_DOT_usage_in_bytes": GIB}
    machine("4:memory:/a\n2:cpu:/b\n", **names)
    assert free_memory("cpu") == 2 * GIB
