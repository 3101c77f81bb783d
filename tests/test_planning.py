"""`auto-interleaved plan`: what fits is worked out from shapes, and is what is then taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from auto_interleaved_inference import AutoInterleavedInferencer, main
from benchmarks.models import SHAPES, build_shape
from modeling.checkpoint import BUNDLED_MODEL
from modeling.planning.described import Described
from modeling.planning.formats import FP8, FULL, HALF, INT8, NF4, weight_bytes
from modeling.planning.live import peak_bytes
from modeling.planning.plan import Need, Planner, best

GIGA = 10**9
GOLDEN = Path(__file__).parent / "golden"


def write_header(path: Path, state: dict[str, list[int]], name: str, size: int) -> None:
    """Write a safetensors file of that many bytes, of which all but the header is a hole."""
    entries, end = {}, 0
    for key, shape in state.items():
        start, end = end, end + torch.Size(shape).numel() * size
        entries[key] = {"dtype": name, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the 7B's shape that takes no room on the disk."""
    directory, shape = tmp_path_factory.mktemp("seven"), SHAPES["7b"]
    manifest = json.loads((GOLDEN / "manifest_7b.json").read_text())
    write_header(directory / "ema.safetensors", manifest["bagel"], "BF16", 2)
    write_header(directory / "ae.safetensors", manifest["autoencoder"], "F32", 4)
    llm, vit = shape.decoder | {"rope_theta": 1e6}, shape.vision | {"num_hidden_layers": 27}
    (directory / "llm_config.json").write_text(json.dumps(llm))
    (directory / "vit_config.json").write_text(json.dumps(vit))
    return directory


def test_the_7b_fits_into_24_gb_in_eight_bits(seven: Path, capsys: Any) -> None:
    assert main(["plan", "--model", str(seven), "--memory", "24GB"]) == 0
    said = capsys.readouterr().out
    assert "int8" in said
    assert f"published_startup.py {seven} text-to-image PROMPT --quantize int8" in said


def test_the_7b_fits_into_80_gb_as_it_is(seven: Path) -> None:
    fits = Planner(Described.read(seven), Need(memory=80 * GIGA)).fits((1024, 1024))
    chosen = best(fits)
    assert chosen is not None
    assert (chosen.form, chosen.tile, chosen.elsewhere) == (HALF, None, 0)
    assert round(chosen.weights / GIGA, 1) == 29.4
    # 9,000 tokens of an image and 500 of its text, which two contexts hold.
    assert chosen.picture == (4098 + 4902 + 2 * 500) * 57_344
    assert 70 < chosen.pictures < 90


def test_what_fits_only_in_tiles_or_beside_the_host_is_told_so(seven: Path) -> None:
    described = Described.read(seven)

    def tried(memory: float, pictures: int) -> dict[str, Any]:
        need = Need(memory=int(memory * GIGA), pictures=pictures)
        ways = Planner(described, need).fits((1024, 1024))
        return {way.form.name + (" offloaded" if way.elsewhere else ""): way for way in ways}

    whole = tried(14.0, 1)["nf4"]
    assert (whole.fits, whole.tile) == (True, None)
    # As much less that one picture no longer fits beside it.
    tiled = tried(14.0 - whole.pictures * whole.picture / GIGA, 1)
    assert (tiled["nf4"].fits, tiled["nf4"].tile) == (True, 64)
    assert tiled["bfloat16 offloaded"].elsewhere > 0
    assert not tiled["bfloat16"].fits


def test_fp8_is_made_of_bfloat16_and_needs_room_for_both(seven: Path) -> None:
    ways = Planner(Described.read(seven), Need(memory=24 * GIGA)).fits((512, 512))
    [way] = [way for way in ways if way.form is FP8]
    assert way.weights < 24 * GIGA < way.loading
    assert not way.fits


def test_weights_take_what_they_do_in_a_loaded_model() -> None:
    described = Described.read(BUNDLED_MODEL)
    loaded = AutoInterleavedInferencer.from_pretrained(dtype="float32").model
    taken = sum(t.numel() * t.element_size() for t in loaded.state_dict().values())
    assert weight_bytes(described.model, FULL) == taken
    halves = [weight_bytes(described.model, form) for form in (FULL, HALF, FP8, INT8, NF4)]
    assert halves == sorted(halves, reverse=True)


def test_the_most_that_is_there_at_a_time_is_counted() -> None:
    def work(x: Tensor) -> Tensor:
        first = x + 1  # 4 kB
        second = first * 2  # both
        del first
        third = second[:10] * 2  # a view takes nothing
        return second.sum() + third.sum()

    nothing, zeros = torch.zeros(1000, device="meta"), torch.zeros(1000)
    assert peak_bytes(lambda: work(nothing)) == 8000
    assert peak_bytes(lambda: work(zeros)) == 8000, "the same where there are values"


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_forecasts_hold_what_the_process_takes() -> None:
    """Not less than was measured, and not more than half as much again."""
    code = (
        "import json, torch; from benchmarks.plan import measure; "
        "print(json.dumps(measure('mid', torch.float32)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=GOLDEN.parents[1])
    assert done.returncode == 0, done.stderr
    rows = {what: (told, found) for what, told, found in json.loads(done.stdout)}
    told, found = rows["at most"]
    assert found <= told <= 1.5 * found, rows
    # Working sets of a few megabytes are within what an allocator keeps.
    assert rows["decoding"][1] <= rows["decoding"][0] + 32 * 10**6, rows


def test_a_plan_runs_nothing_and_its_call_can_be_pasted(capsys: Any) -> None:
    assert main(["plan", "--memory", "2GB", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    names: dict[str, Any] = {"PROMPT": "Draw a red circle, then add a blue square to its right."}
    exec(said[said.index("from auto_interleaved_inference") :], names)  # noqa: S102
    assert len(names["output"].images) == 2


def test_a_prompt_may_still_be_the_word(capsys: Any, tmp_path: Path) -> None:
    page = str(tmp_path / "page.html")
    words = ["--output", page, "--max-images", "0", "--max-text-length", "1", "plan"]
    assert main(words) == 0
    assert Path(page).exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--memory"),
        (["--memory", "much"], "--memory: must be bytes, such as 8GB"),
        (["--memory", "0"], "--memory must be at least 1"),
        (["--memory", "2GB", "--pictures", "0"], "--pictures must be at least 1"),
        (["--memory", "2GB", "--text", "-1"], "--text must be at least 0"),
        (["--memory", "2GB", "--model", "nowhere"], "--model: no checkpoint directory"),
        (["--memory", "2GB", "--image-shape", "9", "9"], "--image-shape: height must be"),
        (["--memory", "2GB", "--device", "tpu"], "--device: invalid choice"),
    ],
)
def test_what_cannot_be_planned_is_refused(words: list[str], reason: str, capsys: Any) -> None:
    assert main(["plan", *words]) == 2
    assert reason in capsys.readouterr().err


def test_where_nothing_fits_that_is_said(capsys: Any) -> None:
    assert main(["plan", "--memory", "1MB"]) == 1
    assert "Nothing fits." in capsys.readouterr().out


def test_quantised_modules_are_those_that_the_published_start_quantises() -> None:
    shape = SHAPES["mid"]
    with torch.device("meta"):
        model = build_shape(shape, "cpu", torch.float32).model
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for form in (INT8, NF4):
        assert {name for name, m in model.named_modules() if form.takes(name, m)} == linear
    layers = {name for name in linear if name.startswith("language_model.model.layers.")}
    assert {name for name, m in model.named_modules() if FP8.takes(name, m)} == layers
