"""Render a page as one file: the templates of Jinja2, with styles, scripts and the library for charts inside.

All text is escaped by Jinja2. The page's policy allows only the scripts in it, by their hashes, and no network, so that
even a name that escaped the escaping could neither run nor send anything.
"""

import base64
import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from importlib import resources
from typing import Any

from tfopt.base.words import shortened
from tfopt.errors import OutputError
from tfopt.evaluate.page.charts.spec import Chart

_BUNDLE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"


def rendered_page(template: str, **context: Any) -> str:
    """Return the HTML of the `template` for `context`; charts in it get their data from `Charts`."""
    charts, style = Charts(), _resource("style.css")
    scripts = {"vega": _vega(), "script": _resource("page.js")}
    page = _environment().get_template(template)
    policy = _policy(scripts.values())
    return str(page.render(**context, charts=charts, style=style, scripts=scripts, policy=policy))


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
        "percent": _percent,
        "short": shortened,
    }
    return environment


def _percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


@functools.cache
def _vega() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one module; vl_convert makes it with 120 MB, which a child returns."""
    done = subprocess.run([sys.executable, "-P", "-c", _BUNDLE], capture_output=True)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise OutputError(f"The library for charts cannot be read: {last}. Install vl-convert-python again.")
    return done.stdout.decode()


def _resource(name: str) -> str:
    return (resources.files("tfopt.evaluate.page") / "templates" / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    """Return the content security policy of a page with these inline scripts."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    rules = {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'", "script-src": hashes}
    return "; ".join(
        f"{what} {allowed}" for what, allowed in {**rules, "base-uri": "'none'", "form-action": "'none'"}.items()
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
