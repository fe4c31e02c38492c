"""Time what a newcomer does after `pip install`: one command, then the first look at its report in a browser.

    python benchmarks/newcomer.py

The package is installed into an empty environment, which is not counted, and used from an empty folder. The clock runs
from the start of `tfopt run deep_compression --out digits` until Chromium has drawn the first chart of report.html.
Then axe-core looks at the page, scrolled to its end and unfolded, and `make docs` builds the docs. Needs Chromium.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from common import publish

ROOT = Path(__file__).parent.parent
COMMAND = ["tfopt", "run", "deep_compression", "--out", "digits"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def installed(place: Path) -> tuple[Path, float]:
    """Install the package into an empty environment; return the folder of its commands, and the seconds of pip."""
    subprocess.run([sys.executable, "-m", "venv", place / "env"], check=True)
    commands = place / "env" / "bin"
    started = time.monotonic()
    constraints = ["--constraint", ROOT / "constraints.txt"]
    pip = [commands / "python", "-m", "pip", "install", "--quiet", *constraints, ROOT]
    subprocess.run(pip, check=True, cwd=place, env=clean())
    return commands, time.monotonic() - started


def clean() -> dict[str, str]:
    """Return the environment variables without those that lead to this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TF_"))}


def run(commands: Path, place: Path) -> tuple[Path, float]:
    """Run the newcomer's command in an empty folder; return the page that it writes, and its seconds."""
    folder = Path(tempfile.mkdtemp(dir=place))
    started = time.monotonic()
    subprocess.run([commands / COMMAND[0], *COMMAND[1:]], check=True, cwd=folder, env=clean(), capture_output=True)
    return folder / "digits" / "report.html", time.monotonic() - started


def looked_at(report: Path) -> tuple[float, int]:
    """Open a page in Chromium; return the seconds to its first chart, and how many serious violations axe finds."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    started = time.monotonic()
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(report.as_uri())
        page.locator(".plot svg.marks").first.wait_for()
        seconds = time.monotonic() - started
        for plot in page.locator(".plot:visible").all():
            plot.scroll_into_view_if_needed()
            plot.locator("svg").first.wait_for()
        for summary in page.locator("summary:visible").all():
            summary.click()
        violations = Axe().run(page).response["violations"]
        browser.close()
    return seconds, sum(rule["impact"] in ("serious", "critical") for rule in violations)


def docs_built() -> float:
    """Return the seconds of `make docs`, with its packages installed before."""
    subprocess.run(["make", "--silent", ".venv/docs"], check=True, cwd=ROOT)
    started = time.monotonic()
    subprocess.run(["make", "--silent", "docs"], check=True, cwd=ROOT, capture_output=True)
    return time.monotonic() - started


def with_examples() -> tuple[int, int]:
    """Return how many public names have an example in their docstring, of how many.

    tests/test_examples.py runs them all.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from test_examples import example_of, public_names

    names = public_names()
    return sum(bool(example_of(name).examples) for name in names), len(names)


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="Of the command and the look at its report.")
def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        commands, pip = installed(place)
        runs, looks, serious = [], [], 0
        for number in range(rounds):
            report, seconds = run(commands, place)
            look, found = looked_at(report)
            click.echo(f"round {number + 1}: {seconds:.1f} s and {look:.1f} s, {found} serious violations")
            runs, looks, serious = [*runs, seconds], [*looks, look], max(serious, found)
        size = report.stat().st_size
    examples, names = with_examples()
    whole = [first + then for first, then in zip(runs, looks, strict=True)]
    rows = [
        ["from the installed package to the first report, seconds", f"{statistics.median(whole):.1f}", "90"],
        ["of these, the very first run (nothing compiled or cached)", f"{whole[0]:.1f}", "90"],
        ["of these, the browser", f"{statistics.median(looks):.1f}", ""],
        ["report.html, bytes", f"{size:,}", f"{5 * 2**20:,}"],
        ["serious violations that axe-core finds", f"{serious}", "0"],
        ["`make docs`, seconds", f"{docs_built():.0f}", ""],
        ["public names with an example that runs", f"{examples} of {names}", "all"],
        ["`pip install`, not counted, seconds", f"{pip:.0f}", ""],
    ]
    facts = [
        f"python benchmarks/newcomer.py --rounds {rounds}",
        f"medians of {rounds} rounds of `{' '.join(COMMAND)}`; {os.cpu_count()} CPU cores",
    ]
    publish("newcomer", "A newcomer's clock", ["what", "measured", "at most"], rows, facts)


if __name__ == "__main__":
    main()
