"""axe-core finds nothing on the report page: wide and narrow, light, dark and on paper."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from leanconv.report import page
from leanconv.train.config import TrainConfig

from .sample import histories, summary
from .test_browser import CHROMIUM, ROWS, run

AXE = importlib.util.find_spec("axe_core_python")
pytestmark = pytest.mark.skipif(CHROMIUM is None or AXE is None, reason="no Chromium or no axe-core is installed")
LOOKS = {"light": None, "dark": "(prefers-color-scheme: dark)", "paper": "print"}
SCRIPT = """for (const folded of document.querySelectorAll('details')) folded.open = true;
const found = await axe.run(document, { resultTypes: ['violations'] });
const where = (nodes) => nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ');
return { broken: found.violations.map(v => v.id + ': ' + v.help + ' ' + where(v.nodes)),
         passed: found.passes.length };"""


def text_of(look: str) -> str:
    """The page of a comparison; its styles for `look` hold, whatever the browser shows."""
    made = summary(ROWS)
    made["settings"]["train"] = TrainConfig().replace(lr=0.3).to_json()
    text = page.html(made, histories())
    media = LOOKS[look]
    if media is not None:
        assert f"@media {media} {{" in text
        text = text.replace(f"@media {media} {{", "@media all {")
    assert AXE is not None and AXE.origin is not None
    axe = (Path(AXE.origin).parent / "axe.min.js").read_text(encoding="utf-8")
    return text.replace("<head>", f"<head><script>{axe}</script>", 1)


@pytest.mark.parametrize("size", ["1200,900", "390,844"])
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(look: str, size: str, tmp_path: Path) -> None:
    found = run(text_of(look), SCRIPT, tmp_path, size)
    assert found["broken"] == []
    assert found["passed"] > 15


def test_axe_sees_what_is_wrong(tmp_path: Path) -> None:
    """A field without a label, and grey words on grey."""
    text = text_of("light").replace(
        "<body>", '<body><input type="text"><p style="color:#999;background:#aaa">words</p>', 1
    )
    broken = " ".join(run(text, SCRIPT, tmp_path)["broken"])
    assert "label" in broken and "color-contrast" in broken
