"""A table, and how it is written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

NOT_RUN = "not run"
_WIDE = 9  # columns from which a table is shrunk to the text's width
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "…": r"\ldots{}", "–": "--", "−": "$-$"},
}


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
        name: What its files are called.
        title: What it shows, one sentence.
        columns: Their names.
        rows: A cell per column each.
        note: How it is to be read.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return it with all columns but the first aligned to the right."""
        rule = ("---", *["---:"] * (len(self.columns) - 1))
        lines = (self.columns, rule, *self.rows)
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """Return it as comma-separated values, the names of the columns first."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((self.columns, *self.rows))
        return text.getvalue()

    def latex(self) -> str:
        """Return it as a floating table; it wants booktabs, and graphicx where it is wide."""
        head, *body = (" & ".join(map(_escape, row)) + r" \\" for row in (self.columns, *self.rows))
        wide = len(self.columns) >= _WIDE
        lines = [
            *(r"\begin{table}", r"\centering", rf"\caption{{{_escape(self.title)}}}"),
            *([r"\resizebox{\textwidth}{!}{%"] if wide else []),
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            r"\end{tabular}" + ("}" if wide else ""),
            *([rf"\par\smallskip\footnotesize {_escape(self.note)}"] if self.note else []),
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
