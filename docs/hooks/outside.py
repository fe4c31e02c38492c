"""Bring pages and notebooks from other folders of the repository into the site, and point links at them.

Links in the repository are relative to the file they are in, as on a Git host. Here they become links of the site.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")


def outside() -> dict[str, str]:
    """Return the path in the site of each page outside docs/, by its path in the repository."""
    found = (path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("benchmarks/results/*.md")))
    tables = {place: place.removeprefix("benchmarks/") for place in found}
    notebooks = {f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in ROOT.glob("notebooks/*.ipynb")}
    return {**PAGES, **tables, **notebooks}


def markdown_of(path: Path) -> str:
    """Return the Markdown of a page, or of a notebook without outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site."""
    for place, page in outside().items():
        files.append(File.generated(config, page, content=markdown_of(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace links into the repository by links into the site."""
    pages = {**{f"docs/{file.src_uri}": file.src_uri for file in files}, **outside()}
    places = {page: place for place, page in pages.items()}
    here = page.file.src_uri

    def in_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(places[here]), link[1]))
        if target not in pages:
            return link[0]
        return f"]({posixpath.relpath(pages[target], posixpath.dirname(here))}{link[2] or ''})"

    return LINK.sub(in_site, markdown)
