"""What training takes is worked out from shapes, as it is where it can be counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.packing import SpecialIds, TextPart, pack
from modeling.bagel import Bagel
from tests.builders import toy_bagel
from train import main
from training.checkpointing import compute_again
from training.footprint import Shapes, Way, footprint, longest
from training.lora import add_lora
from training.task import Lora

SPECIAL = SpecialIds(bos=1, eos=2, start_of_image=3, end_of_image=4)
TOKENS = 64
ALL = Way(bytes_per_weight=4)


def kept(model: Bagel) -> int:
    """Count the values that are kept for gradients, attention's scores left out.

    A CPU computes these as plain products, which keep all of them; a GPU's kernels keep none.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and TOKENS not in tensor.shape[-1:]:
            sizes[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    parts = [TextPart(ids=tuple(range(5, 3 + TOKENS)))]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(pack([parts], SPECIAL))
    return sum(sizes.values())


def test_what_layers_keep_of_a_token_is_what_is_counted() -> None:
    """The difference of two depths: all that is outside of the layers falls out."""
    deep, shallow = toy_bagel(), toy_bagel()
    del shallow.language_model.model.layers[-1]
    counted = (kept(deep) - kept(shallow)) / TOKENS
    assert counted == pytest.approx(Shapes.of(deep).kept_of_a_layer, rel=0.15)


def test_layers_that_compute_again_keep_what_goes_in() -> None:
    deep, shallow = toy_bagel(), toy_bagel()
    del shallow.language_model.model.layers[-1]
    compute_again(deep)
    compute_again(shallow)
    counted = (kept(deep) - kept(shallow)) / TOKENS
    assert counted == pytest.approx(Shapes.of(deep).hidden, rel=0.1)


def test_weights_and_states_are_those_of_the_model() -> None:
    model = toy_bagel()
    shapes = Shapes.of(model)
    total = sum(p.numel() for p in model.parameters())
    taken = footprint(shapes, ALL, TOKENS)
    assert taken.weights == 4 * total
    assert taken.learning == 4 * 4 * total
    half = footprint(shapes, replace(ALL, bytes_per_weight=2), TOKENS)
    assert half.weights == taken.weights / 2
    assert footprint(shapes, replace(ALL, learns="decision"), TOKENS).learning == 0


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank_changes_are_as_many_as_peft_makes(rank: int) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra `train`)")
    shapes = Shapes.of(toy_bagel())
    wrapped = add_lora(toy_bagel(), Lora(rank=rank))
    learnt = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    taken = footprint(shapes, replace(ALL, learns="lora", rank=rank), TOKENS)
    assert taken.learning == 4 * 4 * learnt


def test_more_cards_more_memory_and_fewer_tokens_never_hurt() -> None:
    shapes = Shapes.of(toy_bagel())
    whole = footprint(shapes, ALL, TOKENS)
    assert footprint(shapes, ALL, 2 * TOKENS).activations > 2 * whole.activations
    deep = replace(shapes, layers=20)
    again = footprint(deep, replace(ALL, checkpointing=True), TOKENS)
    assert again.activations < 0.5 * footprint(deep, ALL, TOKENS).activations
    assert footprint(shapes, replace(ALL, cards=8), TOKENS).learning == whole.learning / 8
    most = longest(shapes, ALL, 2e9)
    assert footprint(shapes, ALL, most).total <= 2e9 < footprint(shapes, ALL, most + 256).total
    assert longest(shapes, ALL, 1e9) == 0


def test_a_plan_says_what_fits_on_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "--memory=80GB", "--cards=2", "--batch-tokens=4096"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0.00378 billion weights; 4,096 tokens a step and card"
    assert lines[2] == "2 x 80 GB"
    assert len(lines) == 11
    assert all(line.startswith("  fits ") for line in lines[4:])
    assert main(["--plan", "--memory=1GB"]) == 0
    assert "does not fit" in capsys.readouterr().out


def test_a_plan_without_memory_tells_of_usual_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan"]) == 0
    shown = capsys.readouterr().out
    assert [card in shown for card in ("1 x 24 GB", "1 x 80 GB", "8 x 80 GB")] == [True] * 3


def test_bad_plans_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", f"--checkpoint={tmp_path}"]) == 1
    assert main(["--plan", "--cards=0"]) == 1
    shown = capsys.readouterr().err
    assert "cards must be at least 1" in shown
    with pytest.raises(SystemExit):
        main(["--plan", "--memory=much"])
    assert "must be a size such as 80GB, got 'much'" in capsys.readouterr().err
