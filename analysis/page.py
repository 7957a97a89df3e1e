"""One self-contained HTML page of tables and pictures: no script, no font, no file beside it."""
import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from core import names
from core.files import write_text

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; max-width: 64rem;
       padding: 0 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 1.5rem 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: #005a8f; } p, li { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } figure { margin: 1rem 0 1.6rem; } img { max-width: 100%; height: auto; }
figcaption, .quiet { color: #555; font-size: .87rem; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem .25rem 0; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 2px solid #888; vertical-align: bottom; } td.text, th.text { text-align: left; }
td { white-space: nowrap; } td.long { white-space: normal; min-width: 20rem; }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; font-size: .8rem; }
details.copy { display: inline-block; margin-right: 1rem; } details.copy[open] { display: block; }
summary { cursor: pointer; color: #005a8f; font-size: .87rem; }
@media (max-width: 40rem) {
  .scroll img { max-width: none; width: 46rem; } .scroll img.narrow { max-width: 100%; width: auto; }
}
"""


def cell_text(value: Any) -> str:
    """Floats with three decimals; nothing for None and nan."""
    if value is None or value != value:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def markdown(table: pd.DataFrame) -> str:
    """DataFrame -> a Markdown table."""
    rows = [[names.markdown(cell_text(x)) for x in row] for row in [table.columns, *table.to_numpy(dtype=object)]]
    rows.insert(1, ["---" if text else "---:" for text in is_text(table)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         **{sign: "\\" + sign for sign in "&%$#_{}"}, "±": r"$\pm$", "×": r"$\times$", "–": "--"}


def csv_text(table: pd.DataFrame, float_format: str | None = None) -> str:
    """DataFrame -> CSV, in which spreadsheets compute nothing."""
    safe = table.rename(columns=names.cell).map(lambda x: names.cell(x) if isinstance(x, str) else x)
    return safe.to_csv(index=False, float_format=float_format)


def latex(table: pd.DataFrame) -> str:
    """DataFrame -> a tabular of LaTeX's booktabs."""
    rows = [" & ".join("".join(LATEX.get(sign, sign) for sign in " ".join(cell_text(x).split()))
                       for x in row) + " \\\\\n"
            for row in [table.columns, *table.to_numpy(dtype=object)]]
    kinds = "".join("l" if text else "r" for text in is_text(table))
    head, body = rows[0], "".join(rows[1:])
    return f"\\begin{{tabular}}{{{kinds}}}\n\\toprule\n{head}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def is_text(table: pd.DataFrame) -> list[bool]:
    """For each column, whether it holds more than numbers; means with deviations, and shares like 3/5, are numbers."""
    number = re.compile(r"[-\d.,: ±/]*")
    return [not all(number.fullmatch(cell_text(x)) for x in table[name]) for name in table.columns]


class Page:
    """Sections one after the other; tables are also written as files into `folder`/tables."""

    def __init__(self, title: str, folder: Path):
        self.title, self.folder = title, folder
        self.parts: list[str] = []
        self.sections: list[str] = []

    def section(self, title: str) -> None:
        self.sections.append(title)
        self.parts.append(f'<h2 id="s{len(self.sections)}">{html.escape(title)}</h2>')

    def text(self, text: str, quiet: bool = False) -> None:
        self.parts.append(f"<p{' class=quiet' if quiet else ''}>{html.escape(text)}</p>")

    def items(self, lines: Iterable[str]) -> None:
        self.parts.append("<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>")

    def folded(self, title: str, text: str, kind: str = "") -> None:
        title, text = html.escape(title), html.escape(text)
        self.parts.append(f'<details class="{kind}"><summary>{title}</summary><pre>{text}</pre></details>')

    def table(self, name: str, table: pd.DataFrame, caption: str) -> None:
        """A DataFrame, with copies as Markdown, LaTeX and CSV, which are also tables/<name>.md, .tex and .csv."""
        kinds = ["text" if text else "" for text in is_text(table)]

        def row(values: Iterable, tag: str) -> str:
            cells = ((cell_text(x), kind) for x, kind in zip(values, kinds, strict=True))
            return "<tr>" + "".join(f'<{tag} class="{kind}{" long" if len(x) > 60 else ""}">{html.escape(x)}</{tag}>'
                                    for x, kind in cells) + "</tr>"

        head, body = row(table.columns, "th"), "".join(row(values, "td") for values in table.to_numpy(dtype=object))
        self.parts.append(f"<figure><div class=scroll><table><thead>{head}</thead><tbody>{body}</tbody></table></div>"
                          f"<figcaption>{html.escape(caption)}</figcaption></figure>")
        copies = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
        for kind, text in copies.items():
            write_text(self.folder / "tables" / f"{name}.{kind}", text)
            self.folded({"md": "Markdown", "tex": "LaTeX", "csv": "CSV"}[kind], text, "copy")

    def picture(self, path: Path, caption: str, command: str) -> None:
        """A PNG, put into the page, with the command that draws it again."""
        data, kind = smaller_encoding(path)
        narrow = ' class="narrow"' if Image.open(path).width < 1000 else ""
        self.parts.append(
            f'<figure><div class=scroll><img{narrow} src="data:image/{kind};base64,{base64.b64encode(data).decode()}" '
            f'alt="{html.escape(caption)}"></div><figcaption>{html.escape(caption)}</figcaption></figure>')
        self.folded("command", command)

    def write(self) -> Path:
        """Write index.html -> its path. Where that fails, an earlier page stays as it was."""
        links = "".join(f'<a href="#s{i}">{html.escape(name)}</a> ' for i, name in enumerate(self.sections, 1))
        title, body = html.escape(self.title), "\n".join(self.parts)
        content = (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
                   '<meta name="viewport" content="width=device-width, initial-scale=1">'
                   f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>\n'
                   f"<h1>{title}</h1><nav>{links}</nav>\n{body}\n</body></html>\n")
        target = self.folder / "index.html"
        write_text(target, content)
        return target


def smaller_encoding(path: Path) -> tuple[bytes, str]:
    """A PNG's bytes, or those of a WebP where these are clearly fewer, as of photographs -> (bytes, "png" or "webp")"""
    png, webp = path.read_bytes(), io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(webp, "WEBP", quality=85)
    return (png, "png") if len(png) <= 1.2 * len(webp.getvalue()) else (webp.getvalue(), "webp")
