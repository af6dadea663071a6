"""Pages of the site that have another source: README, CONTRIBUTING, the changelog, results, examples and the Python reference.

mkdocs calls these functions. Each text has one source; this file only moves it and turns the links.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from types import ModuleType
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/README.md": "results/README.md",
}
COPIED = ("results/*.json", "examples/*.py", "examples/web/index.html", "examples/web/classify.js", "LICENSE")
REFERENCE = {  # page: title, first line, modules
    "api": ("Python reference", "Every name below is `lc.NAME` after `import leanconv as lc`.", ("leanconv",)),
    "training": (
        "leanconv.train",
        "Training, recovery, and weights that several processes divide.",
        ("leanconv.train", "leanconv.train.fsdp"),
    ),
    "search": (
        "leanconv.search",
        "Channels and blocks that go, orders of channels, and the layers that are faster lean.",
        ("leanconv.search",),
    ),
    "analyse": ("leanconv.analyse", "The papers' pictures.", ("leanconv.analyse",)),
    "detect": ("leanconv.detect", "Detectors on lean backbones.", ("leanconv.detect",)),
    "testing": ("leanconv.testing", "The contract of all operators, for operators of your own.", ("leanconv.testing",)),
}
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
SECTION = re.compile(r"<!-- section: (?P<file>\S+)#(?P<title>.+?) -->")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages whose source is outside docs/, the files that pages link to, and the Python reference."""
    for source, page in MOVED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=turned(text, source, page)))
    for path in sorted(found for pattern in COPIED for found in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    for name, page in REFERENCE.items():
        files.append(File.generated(config, f"reference/{name}.md", content=reference(*page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links that leave docs/, and include the sections of other documents."""
    name = page.file.src_uri
    if name not in MOVED.values():
        markdown = turned(markdown, f"docs/{name}", name)

    def section(match: re.Match[str]) -> str:
        text = (ROOT / match["file"]).read_text(encoding="utf-8")
        body = text.split(f"## {match['title']}\n", 1)[1]
        return turned(re.split(r"^## ", body, maxsplit=1, flags=re.MULTILINE)[0], match["file"], name)

    return SECTION.sub(section, markdown)


def turned(text: str, source: str, page: str) -> str:
    """`text` of the file `source` as the page `page`, with its relative links turned to pages and files of the site.

    >>> turned("[a](docs/speed.md#b)", "README.md", "index.md")
    '[a](speed.md#b)'
    """

    def link(match: re.Match[str]) -> str:
        target = normpath((PurePosixPath(source).parent / match[2]).as_posix())
        target = MOVED.get(target, target.removeprefix("docs/"))
        return f"{match[1]}{relpath(target, PurePosixPath(page).parent.as_posix())}{match[3] or ''}{match[4]}"

    return LINK.sub(link, text)


def notebook(path: Path) -> str:
    """A notebook as a page, with a link to its file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    parts = [
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in zip(cells, texts, strict=True)
    ]
    return "\n\n".join([*parts, f"[The notebook]({path.name})\n"])


def reference(title: str, head: str, modules: Sequence[str]) -> str:
    """A page of the Python reference: the public names of some modules, from their docstrings.

    A name that `leanconv` has too is on the first page only.
    """
    import leanconv

    first = [] if modules == ("leanconv",) else [getattr(leanconv, name) for name in leanconv.__all__]
    kinds: dict[str, list[str]] = {"Functions": [], "Classes": [], "Values": []}
    for module in map(import_module, modules):
        for name in sorted(_public(module)):
            value = getattr(module, name)
            kind = "Classes" if inspect.isclass(value) else "Functions" if callable(value) else "Values"
            where = getattr(value, "__module__", None)
            if any(value is other for other in first):
                continue
            if kind != "Values" and where is not None:
                kinds[kind].append(f"::: {where}.{value.__name__}\n")
            else:
                kinds["Values"].append(f"`{module.__name__}.{name}`: {type(value).__name__}\n")
    body = "".join(f"\n## {kind}\n\n" + "\n".join(lines) for kind, lines in kinds.items() if lines)
    return f"# {title}\n\n{head}\n{body}"


def _public(module: ModuleType) -> Sequence[str]:
    """The names of `__all__`, or the public functions and classes that the module defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])
