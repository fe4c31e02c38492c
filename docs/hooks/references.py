"""Link public names in the text to their place in the reference."""

import re
from pathlib import Path
from typing import Any

PAGES = (Path(__file__).parent.parent / "api").glob("*.md")
NAMES = frozenset(
    name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the name of something described in docs/api, in backticks, into a reference."""

    def link(name: re.Match[str]) -> str:
        return f"[{name[0]}][{name[1]}]" if name[1] in NAMES else name[0]

    return re.sub(r"(?<!\[)`(tfopt\.[\w.]+)`", link, markdown)
