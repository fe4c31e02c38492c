"""The notebooks run from the first cell to the last, and lie in git without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
# What the outputs of each must hold, and a file that it writes.
SHOWS = {
    "deploy": ("int16_activations", "model_data.cc"),
    "own_fit": ("float tensors: []", "model.tflite"),
    "quickstart": ("exported int8", "digits/report.json"),
    "transfer_and_distill": ("student of the teacher: ", ""),
}


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_are_here():
    assert [path.stem for path in NOTEBOOKS] == list(SHOWS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in code(read(path)))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    ran = NotebookClient(read(path), timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in code(ran) for output in cell.outputs]
    printed = "".join(output.get("text", "") + output.get("data", {}).get("text/html", "") for output in outputs)
    shown, written = SHOWS[path.stem]
    assert shown in printed
    assert (tmp_path / written).exists()
