"""The pages that are made from code and results are up to date: `make docs` writes them anew."""

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from egeunet.exporting.formats import FORMATS
from egeunet.models import list_models
from research import docs
from research.report import write_report

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate():
    if not (importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")):
        pytest.skip("no timm: pip install 'egeunet[zoo]'")
    return docs


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/performance.md",
        "docs/quality.md",
        "docs/robustness.md",
        "docs/runtime.md",
        "docs/batch.md",
        "docs/serve.md",
        "docs/models.md",
        "docs/training.md",
        "docs/web.md",
    ],
)
def test_generated_regions_are_fresh(generate, page):
    path = ROOT / page
    assert path in generate.PAGES
    assert path.read_text(encoding="utf-8") == generate.render(path), "stale: run `make docs`"


@pytest.mark.slow
def test_the_report_is_fresh(generate, tmp_path):
    """Pictures are not compared, but the page names those that are there."""
    for picture in generate.REPORT.glob("*.png"):
        shutil.copy(picture, tmp_path)
    write_report(generate.RESULTS, tmp_path)
    fresh = {path.name for path in tmp_path.iterdir()}
    assert fresh == {path.name for path in generate.REPORT.iterdir()}, "stale: run `make docs`"
    for name in fresh:
        if not name.endswith(".png"):
            committed = (generate.REPORT / name).read_text("utf-8")
            assert committed == (tmp_path / name).read_text("utf-8"), "stale: run `make docs`"


def test_the_table_has_every_model():
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    table = re.search("<!-- models:begin -->(.*?)<!-- models:end -->", text, re.DOTALL)[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list_models()


def test_the_formats_of_the_page_are_those_that_there_are():
    text = (ROOT / "docs" / "runtime.md").read_text("utf-8")
    for form in FORMATS:
        assert f"| `{form.name}` | `{form.file}` |" in text


def test_regions_of_the_runtime_are_filled_from_results(generate, tmp_path, monkeypatch):
    times = {"median": 0.005, "min": 0.004, "max": 0.006, "times_ours": 1.0}
    ways = {"p50_ms": 5.0, "p95_ms": 6.0}
    rates = {"decode": 900.0, "infer": 170.0, "masks": 140.0, "files": 130.0, "onnx": 70.0}
    form = {"name": "ONNX int8", "size_kb": 99.3, "startup_s": 0.2, "peak_mb": 61.0}
    row = {
        "latency": {"ours, engine": times},
        "folder": [{"threads": 1, "per_second": rates, "share": 0.84}],
        "start": {"seconds": {"median": 0.21}, "peak_mb": 63.0},
        "large": {"median": 52.0},
        "agreement": {"photo": {"mean": 0.9999, "min": 0.998, "n": 100, "probability": 1e-3}},
        "formats": [{**form, "dice": None, "threads": {"1": ways}}],
        **{"cpu": "a CPU", "cores": 2, "shared": True, "git_commit": "0" * 40},
        "versions": {"onnxruntime": "1", "torch": "2"},
    }
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert set(generate.runtime().values()) == {"not run\n"}
    (tmp_path / "inference.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = generate.runtime()
    assert "| ours, engine | 5.0 | 4.0–6.0 | 1.00 |" in found["runtime latency"]
    assert "| 1 | 900/s | 170/s | 140/s | 130/s | 70/s | 84% |" in found["runtime folder"]
    assert "| ONNX int8 | 99 | 5.0 | 6.0 | 0.20 | 61 | not run |" in found["runtime formats"]
    assert "shared with other work" in found["runtime machine"]
    assert found["runtime options"] == "not run\n"


def test_sizes_of_archives_are_computed_from_the_measured_rate(generate, tmp_path, monkeypatch):
    event = {"second": 12, "event": "worker killed", "parts": 3}
    row = {
        **{"photos": 1000, "shard_size": 10, "bytes_in": 10_000_000, "bytes_out": 500_000},
        **{"predict_per_second": [90.0, 110.0], "batch_per_second": 100.0, "batch_share": 1.0},
        "undisturbed": {"mb": [1000, 1001]},
        "killed": {"same_bytes": True, "events": [event]},
        **{"cpu": "a CPU", "cores": 2, "shared": False, "git_commit": "0" * 40},
        "versions": {"onnxruntime": "1", "torch": "2"},
    }
    monkeypatch.setattr(generate, "RESULTS", tmp_path)
    assert set(generate.scale().values()) == {"not run\n"}
    (tmp_path / "scale.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = generate.scale()
    assert "| photos per core-hour | 180,000 |" in found["scale"]
    assert "| a photo's bytes in, out | 10,000, 500 |" in found["scale"]
    assert "| 1 B | 5,555.6 | 222.22 | 10,000.0 GB | 500.0 GB |" in found["scale sizing"]
    assert "| 5,500 reads a second, each photo an object | 110 |" in found["scale limits"]
    assert "| 1.25 GB/s of network | 2,500 |" in found["scale limits"]
    assert "| 12 | worker killed | 3 |" in found["scale log"]


def test_every_model_has_a_paragraph_with_its_cost():
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    assert {name for name in list_models() if f"<!-- cost {name}:begin -->" not in text} == set()


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")))
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_smallest_model_of_the_docs_works(tmp_path, monkeypatch):
    """The page on the architecture shows one file, and that file is enough."""
    section = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## Add a model")[1]
    code = re.search("```python\n(.*?)```", section, re.DOTALL)[1]
    (tmp_path / "tinynet.py").write_text(code, encoding="utf-8")

    import egeunet.models
    from egeunet.models import count_cost, create_model, registry

    monkeypatch.setattr(egeunet.models, "__path__", [*egeunet.models.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    registry._load_all.cache_clear()
    try:
        assert "tinynet" in list_models()
        assert count_cost(create_model("tinynet", num_classes=2)).params == 8
    finally:
        registry._load_all.cache_clear()
        sys.modules.pop("egeunet.models.tinynet", None)
