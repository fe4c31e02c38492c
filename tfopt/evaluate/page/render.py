"""Render a page as one file: the templates of Jinja2, with styles, scripts and the library for charts inside.

All text is escaped by Jinja2. The page's policy allows only the scripts in it, by their hashes, and no network, so that
even a name that escaped the escaping could neither run nor send anything.
"""

import base64
import functools
import hashlib
import json
from importlib import resources
from typing import Any

from tfopt.base.words import shortened
from tfopt.evaluate.page.charts.spec import Chart

MINUS = "\N{MINUS SIGN}"


def rendered_page(template: str, **context: Any) -> str:
    """Return the HTML of the `template` for `context`; charts in it get their data from `Charts`."""
    charts = Charts()
    scripts = {"vega": _vega(), "script": _resource("page.js")}
    return str(
        _environment().get_template(template).render(
            **context,
            charts=charts,
            style=_resource("style.css"),
            scripts=scripts,
            policy=_policy(scripts.values()),
        )
    )  # fmt: skip


class Charts:
    """The charts of a page, numbered; the page reads their specifications from one block of JSON."""

    def __init__(self) -> None:
        self._specs: list[dict[str, Any]] = []

    def add(self, chart: Chart) -> int:
        """Add a chart and return its number."""
        self._specs.append({"spec": chart.spec, "height": chart.height})
        return len(self._specs) - 1

    def json(self) -> str:
        """Return all specifications as JSON; the characters that HTML interprets are escaped."""
        text = json.dumps(self._specs, separators=(",", ":"))
        for char in "<>&\u2028\u2029":
            text = text.replace(char, f"\\u{ord(char):04x}")
        return text


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tfopt.evaluate.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "percent": lambda value, digits=1: f"{value:.{digits}%}",
        "short": shortened,
        "words": lambda name: str(name).replace("_", " "),
    }
    return environment


@functools.cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one module."""
    from vl_convert import javascript_bundle

    return str(javascript_bundle())


def _resource(name: str) -> str:
    return (resources.files("tfopt.evaluate.page") / "templates" / name).read_text(encoding="utf-8")


def _policy(scripts: Any) -> str:
    """Return the content security policy of a page with these inline scripts."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"  # noqa: E501


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
