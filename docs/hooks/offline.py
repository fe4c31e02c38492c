"""Refuse pages that would load something from the network."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

REMOTE = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(https?:[^"'\s>]+)""")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Raise `PluginError` for a page with a remote script, style, image or frame."""
    if found := REMOTE.findall(output):
        raise PluginError(f"{page.file.src_uri} loads {', '.join(found)}; keep a copy in docs/assets.")
    return output
