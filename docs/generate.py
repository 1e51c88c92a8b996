"""Write the tables and the figure of README and docs anew from code and results: `make docs`.

A page has regions between `<!-- name:begin -->` and `<!-- name:end -->`; the rest is written by
hand. `tests/test_docs.py` fails when a region is stale.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "systems.md")
FIGURE_1 = ROOT / "docs" / "images" / "figure1.png"
STEPS = ROOT / "results" / "zoo_steps.jsonl"


@functools.cache
def regions() -> dict[str, str]:
    """Return the text of every region by its name."""
    table = egeunet("models", "--markdown")
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    systems = [name.strip("`") for name, *_ in lines]
    return {
        "models": f"\n{table}",
        "steps": f"\n{steps(systems)}",
        **{
            f"cost {system}": f"{params} parameters, {macs} GMACs, {memory} MB"
            for system, (_, params, macs, memory, *_) in zip(systems, lines, strict=True)
        },
    }


def steps(systems: list[str]) -> str:
    """Return the table of the first training steps, the last row of each system."""
    lines = STEPS.read_text(encoding="utf-8").splitlines()
    rows = {row["system"]: row for row in map(json.loads, lines)}
    table = [
        "| system | batch | loss, first 5 | loss, last 5 | seconds a step | IoU of a photo |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for system in systems:
        row = rows.get(system)
        cells = ["not run", "", "", "", ""]
        if row:
            mark = "" if "statistics_settled_on" in row else "\\*"
            cells = [
                str(row["batch_size"]),
                f"{row['output_loss_first5']:.3f}",
                f"{row['output_loss_last5']:.3f}",
                f"{row['step_seconds_median']:.2f}",
                f"{row['photo_iou']:.3f}{mark}",
            ]
        table.append(f"| `{system}` | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


def render(page: Path) -> str:
    """Return what a page should say."""
    pattern = r"(<!-- (.+?):begin -->).*?(<!-- \2:end -->)"
    text = page.read_text(encoding="utf-8")
    return re.sub(pattern, lambda m: m[1] + regions()[m[2]] + m[3], text, flags=re.DOTALL)


def egeunet(*words: str) -> str:
    """Run the program and return what it prints."""
    command = [sys.executable, "-m", "egeunet", *words]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT
    ).stdout


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page), encoding="utf-8")
    egeunet("report", "figure1", "-o", str(FIGURE_1))
