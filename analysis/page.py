"""One self-contained HTML page of tables and pictures: no script, no font, no file beside it."""
import base64
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from core import names
from core.files import write_text

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
                        trim_blocks=True, undefined=StrictUndefined)


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
        self.parts: list[dict[str, Any]] = []
        self.sections: list[str] = []

    def section(self, title: str) -> None:
        self.sections.append(title)
        self.parts.append({"kind": "section", "number": len(self.sections), "title": title})

    def text(self, text: str, quiet: bool = False) -> None:
        self.parts.append({"kind": "text", "text": text, "quiet": quiet})

    def items(self, lines: Iterable[str]) -> None:
        self.parts.append({"kind": "items", "lines": list(lines)})

    def folded(self, title: str, text: str, style: str = "") -> None:
        self.parts.append({"kind": "folded", "title": title, "text": text, "style": style})

    def table(self, name: str, table: pd.DataFrame, caption: str) -> None:
        """A DataFrame, with copies as Markdown, LaTeX and CSV, which are also tables/<name>.md, .tex and .csv."""
        self.parts.append({"kind": "table", "caption": caption, "head": [cell_text(x) for x in table.columns],
                           "kinds": ["text" if text else "" for text in is_text(table)],
                           "rows": [[cell_text(x) for x in row] for row in table.to_numpy(dtype=object)]})
        copies = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
        for kind, text in copies.items():
            write_text(self.folder / "tables" / f"{name}.{kind}", text)
            self.folded({"md": "Markdown", "tex": "LaTeX", "csv": "CSV"}[kind], text, "copy")

    def picture(self, path: Path, caption: str, command: str) -> None:
        """A PNG, put into the page, with the command that draws it again."""
        data, kind = smaller_encoding(path)
        self.parts.append({"kind": "picture", "type": kind, "data": base64.b64encode(data).decode(), "caption": caption,
                           "narrow": Image.open(path).width < 1000})
        self.folded("command", command)

    def write(self) -> Path:
        """Write index.html -> its path. Where that fails, an earlier page stays as it was."""
        target = self.folder / "index.html"
        write_text(target, TEMPLATES.get_template("report.html").render(
            title=self.title, sections=self.sections, parts=self.parts))
        return target


def smaller_encoding(path: Path) -> tuple[bytes, str]:
    """A PNG's bytes, or those of a WebP where these are clearly fewer, as of photographs -> (bytes, "png" or "webp")"""
    png, webp = path.read_bytes(), io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(webp, "WEBP", quality=85)
    return (png, "png") if len(png) <= 1.2 * len(webp.getvalue()) else (webp.getvalue(), "webp")
