"""Saved sessions: read again once, and then as if they had never been away."""

import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from auto_interleaved.sessions.session import Session
from auto_interleaved_inference import AutoInterleavedInferencer
from data.output import InterleavedOutput
from data.protocols import PROTOCOLS, EveryText, Marker, Protocol, Sampled
from tests.builders import picture, toy_bagel, toy_inferencer
from tests.scripted import ScriptedInferencer, arguments_of, asks, counted, layout, says
from tests.test_session import FIRST, SECOND, ended, near, same_rows, send, talk

places = pytest.mark.parametrize("name", ["talk", "talk.json"])
PROMPT = ["Look at this ☃.", picture(), "Go."]


def told(**options: Any) -> tuple[ScriptedInferencer, Session]:
    """Have a talk with pictures, plans and a failed turn."""
    script = [says("plan"), *FIRST, asks("lost"), *SECOND]
    inferencer, session = talk(*script, **options)
    send(session, PROMPT, think=True)
    ended(session, inferencer, "an error")
    send(session, "More.")
    return inferencer, session


def loaded(path: Path, *script: Any, **options: Any) -> tuple[ScriptedInferencer, Session]:
    inferencer = ScriptedInferencer(*script)
    return inferencer, inferencer.load_session(path, **options)


def same_history(one: Session, other: Session) -> None:
    for a, b in zip(one.history, other.history, strict=True):
        assert near(a.output, b.output)
        assert a.output == b.output
        assert list(map(type, a.prompt)) == list(map(type, b.prompt))
        assert (a.seed, a.failed, a.options) == (b.seed, b.failed, b.options)
        assert a.output.segments[0].token_ids == b.output.segments[0].token_ids
        assert str(a.output.error) == str(b.output.error).removeprefix("RuntimeError: ")


@places
def test_a_loaded_session_has_the_same_history_and_goes_on_as_the_one_that_was_saved(
    tmp_path: Path, name: str
) -> None:
    inferencer, session = told()
    assert session.save(tmp_path / name) == tmp_path / name
    other, again = loaded(tmp_path / name, asks("Five"), says("Six"))
    same_history(session, again)
    inferencer.script = iter((asks("Five"), says("Six")))
    assert near(send(session, "And now?"), send(again, "And now?"))
    assert all(map(same_rows, inferencer.views[-2:], other.views))
    one, two = inferencer.drawn[-1], other.drawn[-1]
    for side in ("full", "without_text", "without_images"):
        assert same_rows(getattr(one, side), getattr(two, side))


def test_what_is_loaded_is_read_once_and_then_no_more(tmp_path: Path) -> None:
    inferencer, session = told()
    session.save(tmp_path / "talk")
    other = ScriptedInferencer(says("Five"))
    with counted(other.model) as counts:
        again = other.load_session(tmp_path / "talk")
    contexts = again.standing.contexts
    assert contexts is not None
    assert contexts.full.length < counts["tokens"] < 2 * contexts.full.length
    with counted(other.model) as counts:
        send(again, "More.")
    inferencer.script = iter((says("Five"),))
    with counted(inferencer.model) as wanted:
        send(session, "More.")
    assert counts == wanted


@pytest.mark.parametrize("image_memory", ["all", "vision", "text"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_and_memory_of_images_reads_again_what_it_read(
    tmp_path: Path, name: str, image_memory: Any
) -> None:
    protocol = replace(PROTOCOLS[name], trigger=Sampled(), final_marks=(re.compile("E.d"), "x"))
    options = {"protocol": protocol, "image_memory": image_memory}
    script = (says("plan"), *FIRST, asks("Three"), says("Four"), *SECOND)
    _, session = talk(*script, **options)
    send(session, PROMPT, think=True)
    send(session, "More.", max_images=0)
    send(session, "And?", image_feedback="pixels")
    session.save(tmp_path / "talk.json")
    other, again = loaded(tmp_path / "talk.json")
    one, two = session.standing.contexts, again.standing.contexts
    assert one is not None
    assert two is not None
    assert again._options.protocol == protocol
    for a, b in zip(one.each, two.each, strict=True):
        assert (a.length, a.position) == (b.length, b.position)
        rows = [(a.rows(layer), b.rows(layer)) for layer in range(a.store.num_layers)]
        assert all(torch.allclose(x, y, atol=1e-4) for p in rows for x, y in zip(*p, strict=True))
    assert [*one.images.values()] == [*two.images.values()]


def test_a_loaded_session_can_be_taken_back_forked_and_saved_again(tmp_path: Path) -> None:
    _, session = told()
    session.save(tmp_path / "talk")
    other, again = loaded(tmp_path / "talk", *SECOND)
    assert near(send(again.fork().rewind(), "More."), session.history[-1].output)
    again.save(tmp_path / "talk.json")
    assert len(loaded(tmp_path / "talk.json")[1].history) == 3


def test_an_empty_session_can_be_kept(tmp_path: Path) -> None:
    talk(cfg_text_scale=2.5)[1].save(tmp_path / "talk")
    _, again = loaded(tmp_path / "talk", says("One"))
    output = send(again, "Go.")
    assert (output.seed, output.config["cfg_text_scale"]) == (5, 2.5)


def test_saving_again_leaves_nothing_of_the_first_save_and_nothing_of_ones_own_is_lost(
    tmp_path: Path,
) -> None:
    _, session = told()
    session.save(tmp_path / "talk")
    (tmp_path / "talk" / "mine.txt").write_text("mine")
    InterleavedOutput(["a", picture()]).save(tmp_path / "talk")
    before = len(list((tmp_path / "talk").iterdir()))
    session.rewind().save(tmp_path / "talk")
    kept = {path.name for path in (tmp_path / "talk").iterdir()}
    assert len(kept) < before
    assert {"mine.txt", "result.json", "session.json", "session.safetensors"} <= kept
    assert len(loaded(tmp_path / "talk")[1].history) == 2  # the one that failed came before
    assert layout(InterleavedOutput.load(tmp_path / "talk")) == ["a", "*"]


def test_a_save_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inferencer, session = told()
    session.save(tmp_path / "talk")
    inferencer.script = iter(SECOND)
    send(session, "And?")

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError("the disk is full")

    for broken in ("data.output.atomic._write", "data.output.atomic._move"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            with pytest.raises(OSError, match="the disk is full"):
                session.save(tmp_path / "talk")
        assert len(loaded(tmp_path / "talk")[1].history) == 3


@pytest.mark.parametrize("name", ["talk.html", "talk.md", "talk.pdf"])
def test_a_session_is_kept_in_a_folder_or_in_json(tmp_path: Path, name: str) -> None:
    _, session = talk()
    with pytest.raises(ValueError, match=r"a session is kept in a folder or a file ending in .js"):
        session.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# Options.


def processor(ids: Any, scores: Any) -> Any:
    return scores


def trigger(written: Any) -> Any:
    return "write" if not written.ended else "stop"


def test_what_no_file_holds_is_asked_for_by_name(tmp_path: Path) -> None:
    generator = torch.Generator("cpu")
    inferencer, session = talk(generator=generator, seed=None, logits_processor=processor)
    session.save(tmp_path / "talk")
    with pytest.raises(ValueError, match="saved with generator, logits_processor, which no file"):
        inferencer.load_session(tmp_path / "talk")
    inferencer.load_session(tmp_path / "talk", generator=generator, logits_processor=processor)
    again = inferencer.load_session(tmp_path / "talk", seed=1, logits_processor=None)
    assert again._options.seed == 1


def test_a_protocol_that_is_a_function_is_asked_for_unless_the_inferencer_has_it(
    tmp_path: Path,
) -> None:
    mine = Protocol(name="mine", trigger=trigger)
    inferencer, session = talk(protocol=mine)
    session.save(tmp_path / "talk")
    with pytest.raises(ValueError, match="was saved with protocol, which no file holds"):
        inferencer.load_session(tmp_path / "talk")
    assert inferencer.load_session(tmp_path / "talk", protocol=mine)._options.protocol == mine
    again = inferencer.load_session(tmp_path / "talk", protocol=None)
    assert again._options.protocol == PROTOCOLS["native"]
    again.save(tmp_path / "again")
    inferencer.protocol = mine
    assert inferencer.load_session(tmp_path / "talk")._options.protocol == mine


@pytest.mark.parametrize("start", [EveryText(), Marker("[x]"), Marker(re.compile("<i+>", re.I))])
def test_protocols_of_ones_own_are_kept_whole(tmp_path: Path, start: Any) -> None:
    mine = Protocol(name="mine", trigger=start, system_prompt="Be nice.", max_images=3)
    talk(protocol=mine)[1].save(tmp_path / "talk")
    assert loaded(tmp_path / "talk")[1]._options.protocol == mine


def test_options_may_be_otherwise_than_they_were_saved(tmp_path: Path) -> None:
    _, session = talk(says("One"), text_temperature=0.5, do_sample=True, stop_strings=("x",))
    send(session, "Go.")
    session.save(tmp_path / "talk")
    _, again = loaded(tmp_path / "talk", says("Two"), temperature=0.7)
    config = send(again, "More.").config
    assert (config["text_temperature"], config["stop_strings"]) == (0.7, ("x",))
    with pytest.raises(TypeError, match="unknown option"):
        loaded(tmp_path / "talk", max_image=3)


# Damage.


def test_where_there_is_nothing_nothing_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "no.json"):
        with pytest.raises(FileNotFoundError, match="there is no saved session at"):
            loaded(path)


def test_a_session_of_another_model_is_refused(tmp_path: Path) -> None:
    _, session = told()
    session.save(tmp_path / "talk")
    parts = toy_inferencer(toy_bagel(num_hidden_layers=3))
    other = AutoInterleavedInferencer(*arguments_of(parts))
    with pytest.raises(ValueError, match="it is of another model: .*'num_hidden_layers': 2"):
        other.load_session(tmp_path / "talk")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return told()[1].save(tmp_path_factory.mktemp("saved") / "talk")


def change(path: Path, *keys: Any, to: Any) -> None:
    document = json.loads((path / "session.json").read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    (path / "session.json").write_text(json.dumps(document))


READ = ("turns", 0, "read")
DAMAGES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "another format": (("format",), "x", 'no "format": "auto-interleaved-session"'),
    "a newer version": (("version",), 9, "its version is 9, this library reads 1; a newer"),
    "no turns": (("turns",), 3, "a field has a wrong type"),
    "no options": (("options",), {}, "the field 'protocol' is missing"),
    "an unknown protocol": (("options", "protocol", "preset"), "nativ", "did you mean 'native'"),
    "an unknown option": (("options", "max_image"), 3, "unknown option"),
    "a wrong option": (("options", "seed"), "x", "seed must be"),
    "a wrong kind": ((*READ, "items", 0, "kind"), "x", "kind must be one of"),
    "no ids": ((*READ, "items", 0, "ids"), [], "ids must be below 504, got ()"),
    "unknown ids": ((*READ, "items", 0, "ids"), [504], "ids must be below 504"),
    "negative ids": ((*READ, "items", 0, "ids"), [-1], "whole and not negative, got -1"),
    "fractions of ids": ((*READ, "items", 0, "ids"), [0.5], "whole and not negative, got 0.5"),
    "ids without end": ((*READ, "items", 0, "ids"), [1] * 600, "longer than the model was made"),
    "other ids": ((*READ, "items", 0, "ids"), [1], "positions, not the"),
    "a missing latent": ((*READ, "items", 2, "latent"), "77", "the field '77' is missing"),
    "a wrong grid": ((*READ, "items", 2, "grid"), [1, 1], "are not (1, 16) finite numbers"),
    "a missing picture": ((*READ, "items", 2, "picture"), "session_077.png", "is missing"),
    "a picture elsewhere": ((*READ, "items", 2, "picture"), "../a.png", "'../a.png' is missing"),
    "latents elsewhere": (("latents",), "../session.safetensors", "is missing"),
    "unknown rules": ((*READ, "rules", "without_text"), "x", "without_text must be one of"),
    "more rules": ((*READ, "rules", "x"), 1, "a field has a wrong type"),
    "no rules": ((*READ, "rules"), None, "there are no rules"),
    "a failed turn that was read": (
        ("turns", 1, "read"),
        {"position": 1, "input_size": None, "rules": None, "items": []},
        "a turn that failed was read",
    ),
    "a turn that was not read": (READ, None, "or one that did not fail was not"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_session_is_refused_and_the_file_is_named(
    tmp_path: Path, saved: Path, damage: str
) -> None:
    keys, value, message = DAMAGES[damage]
    path = shutil.copytree(saved, tmp_path / "talk")
    change(path, *keys, to=value)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        loaded(path)
    assert "talk" in str(raised.value)
    assert "is no saved session for this model, or is damaged" in str(raised.value)
    assert len(str(raised.value)) < 500


def test_files_that_are_cut_or_lie_are_refused(tmp_path: Path, saved: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            loaded(path)
        shutil.copytree(saved, path, dirs_exist_ok=True)

    path = shutil.copytree(saved, tmp_path / "talk")
    for name in ("session.json", "session.safetensors", "session_000.png"):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: len(data) // 2])
        refused("is no saved session for this model, or is damaged")
    tensors = load_file(path / "session.safetensors")
    save_file({n: t * torch.nan for n, t in tensors.items()}, path / "session.safetensors")
    refused("finite numbers")
    png = (path / "session_000.png").read_bytes()
    (path / "session_000.png").write_bytes(
        png[:16] + struct.pack(">II", 50_000, 100_000) + png[24:]
    )
    refused("pictures would take 15,000,")
    loaded(path)
