"""Run the public complaints that were rebuilt as small programs, and tabulate which come out right.

    python benchmarks/public_cases.py --cases shared/cases/ --before before.json

Each case is a script that exits with 0 if all is right and whose last line gives the figures. They run one after the
other, each in its own process, with the folder's common.py. The outcome is kept in public_cases.json in the current
folder; --before names such a file of an earlier version. Writes benchmarks/results/public_cases.md.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
from common import publish


def outcome(script: Path, timeout: int) -> dict[str, str]:
    """Return the verdict and the figures of one case."""
    command = [sys.executable, script.name]
    try:
        done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"verdict": "too slow", "figures": f"over {timeout} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode not in (0, 1) or not lines:
        return {"verdict": f"exit code {done.returncode}", "figures": (done.stderr.strip().splitlines() or [""])[-1]}
    right = sum(line.startswith("ok ") for line in lines)
    wrong = sum(line.startswith("FAIL ") for line in lines)
    verdict = "right" if done.returncode == 0 else f"{wrong} of {right + wrong} checks wrong"
    return {"verdict": verdict, "figures": lines[-1].partition(": ")[2]}


@click.command(help=__doc__)
@click.option("--cases", type=click.Path(path_type=Path), required=True, help="Folder of the scripts.")
@click.option("--before", type=click.Path(path_type=Path), help="Outcome of an earlier version.")
@click.option("--only", multiple=True, help="Only the cases whose name begins with this.")
@click.option("--timeout", default=900, show_default=True, help="Seconds for each case.")
def main(cases: Path, before: Path | None, only: tuple[str, ...], timeout: int) -> None:
    scripts = [script for script in sorted(cases.glob("[0-9]*.py")) if not only or script.name.startswith(only)]
    found = {}
    for script in scripts:
        found[script.stem] = outcome(script, timeout)
        click.echo(f"{script.stem}: {found[script.stem]['verdict']}", err=True)
    Path("public_cases.json").write_text(json.dumps(found, indent=2) + "\n")
    earlier = json.loads(before.read_text()) if before else {}
    rows = [
        [name, earlier.get(name, {}).get("verdict", "not run"), now["verdict"], now["figures"][:160].replace("|", "/")]
        for name, now in found.items()
    ]
    right = sum(now["verdict"] == "right" for now in found.values())
    facts = [
        f"{right} of {len(found)} are right",
        "noise: mean squared difference over the variance of the Keras outputs",
    ]
    publish("public_cases", "Public complaints, rebuilt", ["case", "before", "now", "figures now"], rows, facts)


if __name__ == "__main__":
    main()
