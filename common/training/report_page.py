"""Page of an inference, `report.html`: one file with its pictures, for people."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from common.cli import count_text, make_code, make_page, make_section, make_table
from common.data import label_color

__all__ = ["make_report_page"]

_DONE = "segmented"
_MAX_EMBEDDED = 100  # pictures in the page; of more cases, the others are linked to
_MAX_COLUMNS = 8  # labels with a column of their own in the table of all cases
_HOW = (
    "Volumes are in ml. Intensities are those of the image as it came{unit}, mean ± standard deviation within the "
    "label. The longest diameter is the largest distance between two points of the largest connected component, in 3D, "
    "in mm. The centroid is in mm from the origin of the scan to the patient's right or left (R, L), front or back "
    "(A, P), head or feet (S, I). A label is cut off where it touches the outermost slice of the scan, beyond which a "
    "part of it may lie. Components do not touch one another, not even at a corner."
)


def make_report_page(report: Mapping[str, Any], names: Mapping[int, str], folder: Path) -> str:
    """Return the page of a report as HTML.

    Args:
        report: see `InferenceReport`.
        names: of the labels by their value, without the background.
        folder: of the pictures.
    """
    cases = report["cases"]
    colors = {name: "#{:02x}{:02x}{:02x}".format(*label_color(value)) for value, name in names.items()}
    sections = [_summary(report), _overview(cases, [*names.values()])]
    for number, case in enumerate(cases):
        if case["labels"]:
            sections.append(_case(number, case, colors, folder, number < _MAX_EMBEDDED))
    unit = report["intensities"]["unit"]
    channel = report["intensities"]["channel"]
    of_channel = f", in {unit}" if unit else f", of {channel}" if channel else ""
    sections.append(make_section("measures", "What was measured", f"<p>{_HOW.format(unit=escape(of_channel))}</p>"))
    sections.append(_details(report))
    return make_page("Report of segmentations", sections)


def _summary(report: Mapping[str, Any]) -> str:
    cases = report["cases"]
    outcomes = [case["outcome"] for case in cases]
    others = "".join(
        f", {outcomes.count(outcome)} {escape(outcome)}" for outcome in dict.fromkeys(outcomes) if outcome != _DONE
    )
    warned = sum(bool(case["warnings"]) for case in cases)
    told = f" {count_text(warned, 'scan')} with a warning." if warned else ""
    bundle = report["bundle"] or {}
    by = " ".join(escape(str(bundle[name])) for name in ("name", "version") if bundle.get(name))
    counted = f"{outcomes.count(_DONE)} of {count_text(len(cases), 'scan')} segmented{others}.{told}"
    lines = [f'<p class="verdict">{counted}</p>']
    lines += [
        f'<p class="refused"><strong>{escape(case["case"])}</strong>: {escape(case["reason"])}</p>'
        for case in cases
        if case["outcome"] not in (_DONE, "kept")
    ]
    made = f" by {by}" if by else ""
    lines.append(
        f"<p>Made{made} on {escape(report['created'].replace('T', ' '))}. Segmentations are not a diagnosis.</p>"
    )
    return make_section("verdict", "", "".join(lines))


def _overview(cases: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Return the table of all cases, with the volumes of their labels where these are few."""
    shown = names if len(names) <= _MAX_COLUMNS else []
    rows = []
    for number, case in enumerate(cases):
        volumes = [_number(case["labels"].get(name, {}).get("volume_ml")) for name in shown]
        link = escape(case["case"])
        if case["labels"]:
            link = f'<a href="#case-{number}">{link}</a>'
        rows.append([link, escape(case["outcome"]), *volumes, str(len(case["warnings"]) or "–")])
    head = ["case", "outcome", *(f"{name}, ml" for name in shown), "warnings"]
    return make_section("cases", "Cases", make_table(head, rows, kind="cases"))


def _case(number: int, case: Mapping[str, Any], colors: Mapping[str, str], folder: Path, is_embedded: bool) -> str:
    """Return the section of a case."""
    picture = _picture(folder / case["picture"], is_embedded) if case["picture"] else ""
    warnings = "".join(f'<p class="warning">{escape(warning)}</p>' for warning in case["warnings"])
    rows = []
    for name, measured in case["labels"].items():
        dot = f'<span class="dot" style="background: {colors[name]}"></span>'
        rows.append(
            [
                f"{dot}{escape(name)}",
                _number(measured["volume_ml"]),
                _intensity(measured),
                _number(measured["longest_diameter_mm"]),
                _place(measured["centroid_ras_mm"]),
                escape(" ".join(measured["cut_off_at"])) or "–",
                str(measured["num_components"]),
            ]
        )
    head = ["label", "volume, ml", "intensity", "longest diameter, mm", "centroid, mm", "cut off at", "components"]
    source = f'<p class="caption">{escape(str(case["image"]))}</p>'
    return make_section(f"case-{number}", case["case"], warnings + picture + make_table(head, rows) + source)


def _picture(path: Path, is_embedded: bool) -> str:
    """Return a picture as a part of the page, or a link to it."""
    if not path.is_file():
        return ""
    source = escape(path.name)
    if is_embedded:
        source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    return f'<figure><img src="{source}" alt="segmentation of {escape(path.stem)}" loading="lazy"></figure>'


def _details(report: Mapping[str, Any]) -> str:
    """Return with what the segmentations were made."""
    weights, bundle = report["weights"] or {}, report["bundle"] or {}
    rows = [
        ["bundle", escape(f"{bundle.get('name', 'not told')} {bundle.get('version', '')}".strip())],
        ["weights", escape(weights.get("file", "not told"))],
        ["SHA-256 of the weights", f"<code>{escape(weights.get('sha256', 'not told'))}</code>"],
        *([escape(name), escape(found)] for name, found in report["versions"].items()),
    ]
    options = [f"{name}: {value}" for name, value in report["options"].items()]
    content = make_table(["", ""], rows)
    if report["command"]:
        content += f"<p>The command:</p>{make_code([report['command']])}"
    if options:
        content += f"<details><summary>Options</summary>{make_code(options)}</details>"
    return make_section("versions", "Made with", content)


def _number(value: float | None) -> str:
    """Return a number with about three digits, and a dash where there is none."""
    if not value:
        return "–" if value is None else "0"
    digits = next((digits for digits, least in enumerate((100, 10, 1, 0.1)) if abs(value) >= least), 3)
    return f"{value:.{digits}f}".replace("-", "−")


def _intensity(measured: Mapping[str, Any]) -> str:
    if measured["mean_intensity"] is None:
        return "–"
    return f"{_number(measured['mean_intensity'])} ± {_number(measured['std_intensity'])}"


def _place(centroid: Sequence[float] | None) -> str:
    """Return coordinates to the patient's right, front and head by the sides to which they go."""
    if centroid is None:
        return "–"
    sides = zip(centroid, ("RL", "AP", "SI"), strict=True)
    return ", ".join(f"{side[value < 0]} {abs(value):.1f}" for value, side in sides)
