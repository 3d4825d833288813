"""Laws of pages: text is text, whatever it looks like, and HTML is given as such."""

from __future__ import annotations

from common.cli import count_text, make_code, make_page, make_section, make_table, package_versions


def test_text_is_escaped_and_html_is_not():
    table = make_table(["<i>"], [["<b>1</b>"]], caption="<em>2</em>")
    assert "&lt;i&gt;" in table and "<b>1</b>" in table and "<em>2</em>" in table
    assert make_code(["a < b", "c"]) == "<pre>a &lt; b\nc</pre>"
    page = make_page("R & D", [make_section("one", "1 < 2", table)])
    assert "<title>R &amp; D</title>" in page and "<h1>R &amp; D</h1>" in page
    assert '<section id="one">\n<h2>1 &lt; 2</h2>' in page
    assert "http" not in page and "<script" not in page


def test_things_are_counted_in_words():
    assert [count_text(number, "scan") for number in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr("common.cli.versions._PACKAGES", {"numpy": "NumPy", "no-such-package": "nothing"})
    found = package_versions()
    assert found["NumPy"][0].isdigit() and found["nothing"] == "not installed as a package"
    assert [*found] == ["Python", "NumPy", "nothing"]
