"""Parts of a page for people: one HTML file that opens in any browser, without network and without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["count_text", "make_code", "make_page", "make_section", "make_table"]

_STYLE = """\
:root { color-scheme: light; --ink: #1f2328; --soft: #5b6470; --line: #dfe3e8; --shade: #f5f7f9; }
* { box-sizing: border-box; }
body {
  margin: 0; background: #fff; color: var(--ink);
  font: 17px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 56rem; margin: 0 auto; padding: 3rem 1.5rem 4rem; }
h1 { margin: 0 0 1.2rem; font-size: 2rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.01em; }
h2 { margin: 0 0 .9rem; font-size: 1.25rem; line-height: 1.3; font-weight: 650; }
section + section { margin-top: 2.6rem; padding-top: 1.6rem; border-top: 1px solid var(--line); }
p, ul { margin: 0 0 .9rem; }
ul { padding-left: 1.2rem; }
.verdict { padding: .9rem 1.1rem; border-left: 4px solid #0072b2; background: var(--shade); font-size: 1.12rem; }
figure { margin: 0 0 1.2rem; }
figure svg, figure img { display: block; width: 100%; height: auto; font-family: inherit; }
figcaption, .caption { margin-top: .6rem; color: var(--soft); font-size: .86rem; line-height: 1.5; }
.wide { overflow-x: auto; }
table {
  width: 100%; border-collapse: collapse; font-size: .92rem; line-height: 1.45; font-variant-numeric: tabular-nums;
}
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th, td { padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, .names th, .names td, #versions th, #versions td { text-align: left; }
.cases th:nth-child(2), .cases td:nth-child(2) { text-align: left; }
th:last-child, td:last-child { padding-right: 0; }
td { vertical-align: top; white-space: nowrap; }
.names td, #versions td:last-child { white-space: normal; overflow-wrap: anywhere; }
td small { color: var(--soft); }
.warning { padding: .5rem .9rem; border-left: 4px solid #e69f00; background: var(--shade); }
.refused { padding: .5rem .9rem; border-left: 4px solid #c3003c; background: var(--shade); overflow-wrap: anywhere; }
.dot { display: inline-block; width: .7em; height: .7em; margin-right: .5em; border-radius: 50%; }
pre {
  margin: 0 0 .9rem; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; background: var(--shade);
  font-size: .84rem; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
}
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { font-size: .9em; overflow-wrap: anywhere; }
summary { cursor: pointer; }
details pre { max-height: 24rem; margin-top: .6rem; overflow-y: auto; white-space: pre; overflow-wrap: normal; }
@media (max-width: 800px) {
  body { font-size: 16px; }
  main { padding: 2rem 1.1rem 3rem; }
  table { font-size: .8rem; }
  th, td { padding-right: .55rem; }
  td small { font-size: .75em; }
}
@media print { body { font-size: 11pt; } main { max-width: none; padding: 0; } }
"""


def make_page(title: str, sections: Iterable[str]) -> str:
    """Return the text of a page.

    Args:
        title: text, which becomes the heading, too.
        sections: HTML, see `make_section`.
    """
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def make_section(name: str, title: str, content: str) -> str:
    """Return a section.

    Args:
        name: by which a link finds it.
        title: text of its heading; none if empty.
        content: HTML.
    """
    heading = f"<h2>{escape(title)}</h2>\n" if title else ""
    return f'<section id="{name}">\n{heading}{content}\n</section>\n'


def make_table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = "") -> str:
    """Return a table.

    Args:
        head: texts.
        rows: cells, which are HTML.
        caption: HTML below it.
        kind: class for the style, such as `names` for a table of texts.
    """
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    below = f'<p class="caption">{caption}</p>' if caption else ""
    table = f'<table class="{kind}">\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    return f'<div class="wide">{table}</div>{below}'


def make_code(lines: Sequence[str]) -> str:
    """Return lines of code, given as text."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def count_text(number: int, noun: str) -> str:
    """Return a number of things as a text, such as 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
