"""The notebook runs from its first cell to its last."""

from pathlib import Path

import pytest

from auto_interleaved.notebook import watch
from tests.bundled import bundled

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
    bundles = [out.get("data", {}) for out in outputs]
    shown = [b for b in bundles if "image/png" in b or "<img" in b.get("text/html", "")]
    assert len(shown) > 6
    written = [out.text for out in outputs if out.output_type == "stream"]
    assert not [text for text in written if "TqdmWarning" in text or "\r" in text]
    assert "<img" in (tmp_path / "story.html").read_text()


WATCHED = [
    """from auto_interleaved_inference import AutoInterleavedInferencer
from auto_interleaved.notebook import watch
inferencer = AutoInterleavedInferencer.from_pretrained()
drawn = "Draw a red circle, then add a blue square to its right."
few = {"seed": 3, "num_timesteps": 4, "preview_every": 1}""",
    "story = watch(inferencer.stream(drawn, think=True, **few))",
    """def fail(*_):
    raise RuntimeError("it <broke>")
broken = watch(inferencer.stream(drawn, callback_on_step_end=fail, **few))""",
    """try:
    watch(inferencer.stream(drawn, callback_on_step_end=fail, on_error="raise", **few))
except Exception as error:
    assert error.partial""",
    """session = inferencer.start_session(**few)
told = watch(session.stream(drawn))
assert told == session.history[0].output and list(told) != []""",
]


def test_a_run_that_is_watched_leaves_its_end_in_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts and pictures in order, each once: no previews, no bars."""
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in WATCHED]
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    setup, story, broken, raised, talk = (
        [out.data for out in cell.outputs] for cell in notebook.cells
    )
    assert setup == []
    thought, *items = story
    assert thought["text/html"].startswith('<div style="max-width:42rem"><details><summary>Though')
    kinds = ["<img" in out["text/html"] for out in items]
    assert kinds[:4] == [False, True, False, True]
    assert all(out["text/html"].count("<img") <= 1 for out in items)
    assert [out["text/plain"] for out in items if "<img" in out["text/html"]] == (
        ["<picture of 64 x 64>"] * sum(kinds)
    )
    assert "it &lt;broke&gt;" in broken[-1]["text/html"]
    assert not [out for out in broken if "<img" in out["text/html"]]
    assert [out["text/plain"] for out in raised if out["text/plain"]] == [broken[0]["text/plain"]]
    assert not [out for out in raised if "drawing" in out["text/html"]]
    assert [out["text/html"] for out in talk if "<img" in out["text/html"]]


def test_outside_of_notebooks_the_output_shows_itself_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda uri: opened.append(uri) or True)
    output = watch(bundled().stream("Draw a red circle.", seed=3, num_timesteps=4))
    assert output.images
    assert Path(opened[0].removeprefix("file://")).read_text().count("<img") >= len(output.images)


def test_a_stream_that_is_at_its_end_is_refused() -> None:
    events = bundled().stream("Draw a red circle.", seed=3, num_timesteps=4)
    list(events)
    with pytest.raises(ValueError, match="the stream was at its end already"):
        watch(events)
