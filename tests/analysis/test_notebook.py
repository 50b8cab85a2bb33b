"""The notebook runs from start to end, and is kept without outputs."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.analysis.made import make_study

NOTEBOOK = Path(__file__).parents[2] / "analysis" / "trials.ipynb"
STUDIES = 'STUDIES = ["../studies/blstm-demo"]'


def test_it_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert sum(STUDIES in "".join(cell["source"]) for cell in cells) == 1
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's own
@pytest.mark.parametrize("finished", [True, False])
def test_it_runs_from_start_to_end(tmp_path: Path, finished: bool) -> None:
    make_study(tmp_path / "all" / "blstm", "blstm", trials=30, finished=finished)
    make_study(tmp_path / "all" / "mlp", trials=12, finished=finished)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(STUDIES, f"STUDIES = [{str(tmp_path / 'all')!r}]")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    figures = [output for output in shown if "<svg" in output.get("data", {}).get("text/html", "")]
    assert len(figures) > (10 if finished else 4)
