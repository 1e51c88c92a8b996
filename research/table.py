"""Tables of text, written as Markdown, CSV and LaTeX with pandas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

NOT_RUN = "not run"
_WIDE = 9  # columns from which a LaTeX table is shrunk to the width of the text


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        name: Stem of its files.
        title: What it shows, one sentence.
        columns: Column names.
        rows: One cell per column each.
        note: How to read it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def frame(self) -> pd.DataFrame:
        """Return it as a data frame of strings."""
        return pd.DataFrame(self.rows, columns=list(self.columns), dtype=str)

    def markdown(self) -> str:
        """Return it as Markdown, all columns but the first aligned to the right."""
        align = ["left", *["right"] * (len(self.columns) - 1)]
        text = self.frame().to_markdown(index=False, colalign=align, disable_numparse=True)
        return re.sub(r"(?<=\|) {2,}| {2,}(?=\|)", " ", re.sub(r"-{3,}", "---", text)) + "\n"

    def csv(self) -> str:
        """Return it as comma-separated values."""
        return self.frame().to_csv(index=False)

    def latex(self) -> str:
        """Return it as a floating LaTeX table; needs booktabs, and graphicx if it is wide."""
        frame = self.frame()
        frame.columns = [_escape(column) for column in frame.columns]
        body = frame.map(_escape).to_latex(
            index=False, column_format="l" + "r" * (len(self.columns) - 1)
        )
        if len(self.columns) >= _WIDE:
            body = f"\\resizebox{{\\textwidth}}{{!}}{{%\n{body}}}\n"
        note = f"\\par\\smallskip\\footnotesize {_escape(self.note)}\n" if self.note else ""
        caption = f"\\caption{{{_escape(self.title)}}}\n"
        return f"\\begin{{table}}\n\\centering\n{caption}{body}{note}\\end{{table}}\n"


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows as a Markdown table; "not run" without rows."""
    cells = tuple(tuple(map(str, row)) for row in rows)
    return Table("", "", tuple(columns), cells).markdown() if cells else f"{NOT_RUN}\n"


def _escape(text: str) -> str:
    text = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", "/"))
    for character, command in {"≥": "$\\geq$", "≤": "$\\leq$", "±": "$\\pm$", "−": "$-$"}.items():
        text = text.replace(character, command)
    return text.replace("~", "\\textasciitilde{}").replace("^", "\\textasciicircum{}")
