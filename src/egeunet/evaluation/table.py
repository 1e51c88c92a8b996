"""A table, and how it is written as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

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
        """Return it as a floating table; it wants the package booktabs."""
        head, *body = (" & ".join(map(_escape, row)) + r" \\" for row in (self.columns, *self.rows))
        lines = [
            *(r"\begin{table}", r"\centering", rf"\caption{{{_escape(self.title)}}}"),
            rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
            *(r"\end{tabular}", r"\end{table}"),
        ]
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
