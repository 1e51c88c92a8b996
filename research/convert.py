"""Rewrite rows of results that an earlier version recorded, under the names of today."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from egeunet.files import atomic_write

ROW = {
    "system": "model",
    "part": "split",
    "quality_photos": "quality_images",
    "evidence": "features",
}
QUALITY = {"rest_ratio": "relative_risk_at_90", "rest_failure_rate": "risk_at_90"}
ROBUSTNESS = {"by_tone": "by_skin_tone"}


def convert(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row under the names of today; rows of benchmarks are returned as they are."""
    if not row.keys() & {"pooled", "weights", "evidence"}:
        return row
    row = _rename(row, ROW)
    if "quality" in row:
        quality = _rename(row["quality"], QUALITY)
        row["quality"] = quality | {"intervals": _rename(quality["intervals"], QUALITY)}
    if "robustness" in row:
        robustness = _rename(row["robustness"], ROBUSTNESS)
        for key in ("by_size", "by_skin_tone"):
            robustness[key] = [{**one, "name": _group(one["name"])} for one in robustness[key]]
        row["robustness"] = robustness
    return row


def convert_file(path: Path) -> int:
    """Convert every row of a `.jsonl` file in place and return the number of rows changed."""
    old = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    new = [convert(row) for row in old]
    with atomic_write(path) as temporary:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in new)
        temporary.write_text("".join(lines), encoding="utf-8")
    return sum(a != b for a, b in zip(old, new, strict=True))


def _group(name: str) -> str:
    name = name.replace("of the photo", "of the image")
    return f"skin {name}" if name.startswith("tone:") else name


def _rename(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in row.items()}
