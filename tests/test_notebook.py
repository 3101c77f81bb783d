"""The notebook runs from its first cell to its last."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = Path(__file__).parent.parent / "examples" / "picturebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_leaves_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))  # a checkout is not installed
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=300, resources=resources)
    client.execute()  # raises with the cell and its traceback
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.output_type == "error"]
    shown = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(shown) > 6
    written = [out.text for out in outputs if out.output_type == "stream"]
    assert not [text for text in written if "TqdmWarning" in text or "\r" in text]
    assert "<img" in (tmp_path / "story.html").read_text()
