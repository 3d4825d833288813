"""Laws of the command that checks bundles."""

from __future__ import annotations

import pytest

from tools.verify.__main__ import verify


def test_the_command_prints_a_finding_a_line_and_ends_with_1_when_there_is_any(tmp_path, monkeypatch, capsys):
    found = []
    monkeypatch.setattr("tools.verify.findings.find_all", lambda roots: found)
    verify(str(tmp_path))
    assert capsys.readouterr().out == "1 bundle, 0 findings\n"
    found.append("own/LICENSE: must exist, got no such file")
    with pytest.raises(SystemExit) as ended:
        verify(str(tmp_path))
    assert ended.value.code == 1
    assert capsys.readouterr().out == "own/LICENSE: must exist, got no such file\n1 bundle, 1 finding\n"


def test_bundles_are_named_or_given_as_folders_and_all_of_the_repository_when_not(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tools.verify.findings.find_all", lambda roots: asked.extend(roots) or [])
    verify("fnet_wtacae_stl", str(tmp_path))
    assert [asked[0].parts[-2:], asked[1]] == [("bundles", "fnet_wtacae_stl"), tmp_path.resolve()]
    asked.clear()
    verify()
    assert len(asked) > 1 and all((root / "configs").is_dir() for root in asked)


def test_a_bundle_that_is_not_there_is_refused():
    with pytest.raises(
        FileNotFoundError, match=r"bundle must be one of context_restoration_unet, .*, or a folder, got 'nothing'"
    ):
        verify("nothing")


def test_a_missing_jsonschema_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr("tools.verify.__main__.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="jsonschema must be installed to check metadata, got none"):
        verify()
