"""The pages that are made from code and results are up to date: `make docs` writes them anew."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from egeunet.models import list_models

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def generate():
    if not (importlib.util.find_spec("timm") and importlib.util.find_spec("torchvision")):
        pytest.skip("no timm: pip install 'egeunet[zoo]'")
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["README.md", "docs/systems.md"])
def test_generated_regions_are_fresh(generate, page):
    path = ROOT / page
    assert path in generate.PAGES
    assert path.read_text(encoding="utf-8") == generate.render(path), "stale: run `make docs`"


@pytest.mark.parametrize("page", ["README.md", "docs/systems.md"])
def test_the_table_has_every_system(page):
    table = re.search(
        "<!-- models:begin -->(.*?)<!-- models:end -->", (ROOT / page).read_text("utf-8"), re.DOTALL
    )[1]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list_models()


def test_every_system_has_a_paragraph_with_its_cost():
    text = (ROOT / "docs" / "systems.md").read_text("utf-8")
    assert {name for name in list_models() if f"<!-- cost {name}:begin -->" not in text} == set()


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")))
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_smallest_system_of_contributing_works(tmp_path, monkeypatch):
    """What CONTRIBUTING shows is one file, and that file is enough."""
    section = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Adding a system")[1]
    code = re.search("```python\n(.*?)```", section, re.DOTALL)[1]
    (tmp_path / "tinynet.py").write_text(code, encoding="utf-8")

    import egeunet.models
    from egeunet.models import count_cost, create_model, registry

    monkeypatch.setattr(egeunet.models, "__path__", [*egeunet.models.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
    registry._systems.cache_clear()
    try:
        assert "tinynet" in list_models()
        assert count_cost(create_model("tinynet", num_classes=2)).params == 8
    finally:
        registry._systems.cache_clear()
        sys.modules.pop("egeunet.models.tinynet", None)
