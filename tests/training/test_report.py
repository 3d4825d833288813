"""Laws of the report of an inference."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from html.parser import HTMLParser
from importlib.metadata import version

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from common.data import LoadVolume, Record, row_of
from common.training import InferenceReport, OverlayPictures
from common.training.whole_outputs import NoteOrigins, keep_whole_cases

LABELS = {0: "background", 1: "liver", 2: "spleen <&>"}
AFFINE = np.diag([-2.0, 1.0, 5.0, 1.0])  # voxels of 0.01 ml


@pytest.fixture
def make_output(write_scan):
    """Return a function that makes what an evaluator returns for a scan of 10 x 10 x 10 voxels."""

    def _make(name, liver=0, spleen=0, **meta):
        label = torch.zeros(1000, dtype=torch.uint8)
        label[500 : 500 + liver] = 1
        label[:spleen] = 2
        image = np.full(1000, -100.0, np.float32)
        image[500:] = 40
        path = write_scan(f"{name}.nii.gz", image.reshape(10, 10, 10), affine=AFFINE)
        meta = {"filename_or_obj": path, "case_id": name, **meta}
        return {"pred": MetaTensor(label.view(1, 10, 10, 10), torch.as_tensor(AFFINE), meta=meta)}

    return _make


def report(folder, outputs, refused=(), pictures=False, **options):
    """Return the report of an inference with some outputs, and of cases that were refused."""
    engine = Engine(lambda engine, batch: batch)
    InferenceReport(folder / "report.json", LABELS, **options).attach(engine)
    if pictures:
        OverlayPictures(folder, LABELS).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "refused", [*refused]))
    engine.run([outputs])

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_report_holds_measures_of_every_label_on_the_original_image(tmp_path, make_output):
    (case,) = report(tmp_path, [make_output("liver", liver=100)])["cases"]
    assert (case["case"], case["outcome"], case["reason"]) == ("liver", "segmented", "")
    assert case["image"].endswith("liver.nii.gz")
    assert case["labels"]["liver"] == {
        "volume_ml": 1.0,
        "mean_intensity": 40.0,
        "std_intensity": 0.0,
        "longest_diameter_mm": pytest.approx((2**2 + 10**2 + 50**2) ** 0.5, abs=1e-5),
        "centroid_ras_mm": [-10.0, 4.5, 22.5],
        "cut_off_at": ["P", "A", "I", "S"],
        "num_components": 1,
    }
    assert case["labels"]["spleen <&>"]["mean_intensity"] is None


@pytest.mark.parametrize(
    ("liver", "spleen", "said"),
    [
        (0, 0, ["nothing was segmented"]),
        (100, 0, ["spleen <&> is empty"]),
        (0, 100, ["liver is empty"]),
        (300, 100, ["liver has 3 ml, where it has 1.2 ml at most in the training"]),
        (
            400,
            501,
            ["liver has 3.99 ml, where it has 1.2 ml at most in the training", "spleen <&> fills 50% of the scan"],
        ),
        (240, 100, []),
    ],
)
def test_what_is_empty_or_implausible_is_warned_of_in_the_report_and_in_the_log(
    tmp_path, make_output, caplog, liver, spleen, said
):
    record = Record(labels=LABELS, volumes_ml={"liver": [0.8, 1.2]})
    output = make_output("a", liver, spleen, warnings="odd; the file says so\nvery odd")
    (case,) = report(tmp_path, [output], record=record)["cases"]
    assert case["warnings"] == ["odd; the file says so", "very odd", *said]
    assert [message.partition(": ")[2] for message in caplog.messages if "a.nii.gz: " in message] == said


def test_what_is_too_small_is_warned_of_unless_it_is_cut_off(tmp_path, make_output):
    whole = make_output("whole")
    whole["pred"][0, 4:6, 4:6, 4:6] = 1  # 0.08 ml
    record = Record(labels=LABELS, volumes_ml={"liver": [0.8, 1.2], "spleen <&>": [0.01, 9]})
    cut = make_output("cut", liver=8, spleen=1)
    whole, cut = report(tmp_path, [whole, cut], record=record)["cases"]
    assert "liver has 0.08 ml, where it has 0.8 ml at least in the training" in whole["warnings"]
    assert cut["warnings"] == []


def test_cases_that_were_not_segmented_are_in_every_part_of_the_report(tmp_path, make_output, caplog):
    refused = [
        {"case": "bad", "image": "/scans/bad.nii.gz", "outcome": "refused", "reason": "bad.nii.gz: holds <4> NaN"},
        {"case": "old", "image": "/z.nii", "outcome": "kept", "reason": "is there already"},
    ]
    with caplog.at_level(logging.INFO):
        found = report(tmp_path, [make_output("good", 100, 100)], refused)
    rows = [(case["case"], case["outcome"], case["reason"]) for case in found["cases"]]
    bad, old = [(row["case"], row["outcome"], row["reason"]) for row in refused]
    assert rows == [bad, ("good", "segmented", ""), old]  # in the order of their files
    table = [*csv.DictReader((tmp_path / "report.csv").open(encoding="utf-8", newline=""))]
    assert [(row["case"], row["outcome"], row["reason"]) for row in table] == [bad, rows[1], *rows[1:]]
    assert [row["label"] for row in table] == ["", "liver", "spleen <&>", ""]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "1 of 3 scans segmented, 1 refused, 1 kept." in page.text
    assert "bad: bad.nii.gz: holds <4> NaN" in page.text
    assert "segmented 1 of 3 case(s); report: " in caplog.text


def test_a_case_that_failed_after_it_was_measured_has_failed(tmp_path, make_output):
    row = {"case": "a", "outcome": "failed", "reason": "a.nii.gz: cannot be drawn"}
    assert [case["outcome"] for case in report(tmp_path, [make_output("a", 5)], [row])["cases"]] == ["failed"]


def test_the_table_has_a_row_for_each_case_and_label(tmp_path, make_output):
    report(tmp_path, [make_output("a", 100), make_output("b", 10, 20)])
    rows = [*csv.DictReader((tmp_path / "report.csv").open(encoding="utf-8", newline=""))]
    assert [(row["case"], row["label"], row["volume_ml"]) for row in rows] == [
        ("a", "liver", "1.0"),
        ("a", "spleen <&>", "0.0"),
        ("b", "liver", "0.1"),
        ("b", "spleen <&>", "0.2"),
    ]
    assert [rows[0][name] for name in ("centroid_r_mm", "centroid_a_mm", "centroid_s_mm")] == ["-10.0", "4.5", "22.5"]
    assert rows[0]["cut_off_at"] == "P A I S" and rows[1]["mean_intensity"] == rows[1]["cut_off_at"] == ""


def test_the_report_tells_with_what_it_was_made(tmp_path, make_output):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    metadata = {"name": "A bundle", "version": "1.2.3", "changelog": {}}
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (tmp_path / "model.pt").write_bytes(b"weights")
    found = report(
        tmp_path,
        [make_output("a", 5)],
        weights=tmp_path / "model.pt",
        settings={"step": 2, "clip": [float("nan"), 1.0], "device": torch.device("cpu")},
        bundle_root=tmp_path / "bundle",
        record=Record(modality=["CT", "PET"]),
    )
    assert found["weights"] == {"file": "model.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert found["bundle"] == {"name": "A bundle", "version": "1.2.3"}
    assert found["options"] == {"step": 2, "clip": [None, 1.0], "device": "cpu"}
    assert found["intensities"] == {"channel": "CT", "unit": "HU"}
    torch_version = version("torch")  # of the package, which need not name CUDA's as PyTorch does
    assert found["versions"]["torch"] == torch_version and "MONAI" in found["versions"]
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    for text in ("A bundle 1.2.3", hashlib.sha256(b"weights").hexdigest(), torch_version, "in HU", "step: 2"):
        assert text in page


class Page(HTMLParser):
    """Text and elements of a page; refuses an end without its beginning."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def test_the_page_has_all_pictures_within_it_and_asks_nobody_for_anything(tmp_path, make_output):
    report(tmp_path, [make_output("a", 100), make_output("b", 10, 20)], pictures=True)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"} and "http" not in text
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert len(links) == 2 and {link.removeprefix("#") for link in links} <= ids
    assert "spleen <&>" in page.text


def test_pictures_of_very_many_cases_lie_beside_the_page(tmp_path, make_output, monkeypatch):
    monkeypatch.setattr("common.training.report_page._MAX_EMBEDDED", 1)
    report(tmp_path, [make_output("a", 100), make_output("b", 10, 20)], pictures=True)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources[0].startswith("data:") and sources[1] == "b.png"


def test_a_report_of_no_case_is_written(tmp_path):
    assert report(tmp_path, [])["cases"] == []
    assert "0 of 0 scans segmented" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_a_scan_without_an_orientation_has_no_centroid(tmp_path, make_output):
    (case,) = report(tmp_path, [make_output("a", 100, is_oriented=False)])["cases"]
    assert case["labels"]["liver"]["centroid_ras_mm"] is None
    assert case["labels"]["liver"]["cut_off_at"] == ["j=0", "j=9", "k=0", "k=9"]


def test_the_scans_that_the_weights_have_learned_from_are_told_but_those_of_a_pretraining(tmp_path, make_output):
    for labels in (LABELS, {}):
        record = Record(labels=labels, learned_from={"a": "1"})
        assert report(tmp_path, [], record=record)["learned_from"] == (["1"] if labels else [])


def test_a_second_run_reports_what_it_did_alone(tmp_path, make_output):
    engine = Engine(lambda engine, batch: batch)
    InferenceReport(tmp_path / "report.json", LABELS).attach(engine)
    for _ in range(2):
        engine.run([[make_output("a", 100)]])
    assert len(json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["cases"]) == 1


def test_a_scan_is_read_once_for_its_measures_and_its_picture(tmp_path, make_output, monkeypatch):
    read = []
    load = LoadVolume.__call__
    monkeypatch.setattr(LoadVolume, "__call__", lambda self, path: read.append(path) or load(self, path))
    report(tmp_path, [make_output("a", 100), make_output("b", 100)], pictures=True)
    assert [path.rpartition("/")[2] for path in read] == ["a.nii.gz", "b.nii.gz"]


def test_what_an_interrupted_run_has_found_is_reported_of_what_is_kept(tmp_path, make_output):
    """It was lost, or was that of an older report of other weights."""
    older = report(tmp_path, [make_output("a", 300), make_output("b", 200)], pictures=True)["cases"]
    outputs = [make_output("a", 100, warnings="odd; very odd"), make_output("b", 50)]
    data = [{"image": case["image"], "case_id": case["case"]} for case in older]
    (tmp_path / "model.pt").write_bytes(b"weights")
    notes = NoteOrigins(tmp_path / "origins.jsonl", tmp_path / "model.pt", data=data)

    def segment(engine, batch):
        if engine.state.iteration == 2:
            raise KeyboardInterrupt
        return [outputs[0]]

    engine = Engine(segment)
    for handler in (InferenceReport(tmp_path / "report.json", LABELS), OverlayPictures(tmp_path, LABELS), notes):
        handler.attach(engine)
    with pytest.raises(KeyboardInterrupt):
        engine.run([{"image": output["pred"]} for output in outputs])
    assert keep_whole_cases(data, lambda case: [tmp_path / f"{case['case_id']}.png"], notes) == 1
    kept = row_of(data[0], "kept", "its outputs are whole")
    (expected,) = report(tmp_path / "alone", outputs[:1], pictures=True)["cases"]
    for _ in range(2):
        a, b = report(tmp_path, [outputs[1]], [kept], pictures=True)["cases"]
        assert a == {**expected, "outcome": "kept", "reason": "its outputs are whole"}
        assert (a["labels"]["liver"]["volume_ml"], a["picture"]) == (1.0, "a.png") and "odd; very odd" in a["warnings"]
        assert (b["outcome"], b["labels"]["liver"]["volume_ml"]) == ("segmented", 0.5)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("data:image/png") == 2
