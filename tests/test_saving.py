"""Saving over an earlier run: the old one or the new one, whole, whoever looks or interrupts."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from output_samples import picture, story

from data.output import InterleavedOutput, atomic, locks

ROOT = Path(__file__).resolve().parents[1]
LATER = InterleavedOutput(["later", picture(7), "and", picture(8)])
every_format = pytest.mark.parametrize(
    "name", ["story.html", "story.json", "story.md", "story", "shared"]
)
every_way = pytest.mark.parametrize("name", ["story.html", "story.md", "story", "shared"])


@pytest.fixture
def place(tmp_path, name):
    """A place with an earlier run; the folder `shared` has files and folders of others in it."""
    if name == "shared":
        (tmp_path / name / "photos").mkdir(parents=True)
        (tmp_path / name / "notes.txt").write_text("mine")
    return story("earlier").save(tmp_path / name)


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def _no_exchange(monkeypatch):
    """A file system, or a system, that exchanges no folders."""

    def refuse(one, other):
        raise OSError(errno.EINVAL, "no such thing here")

    monkeypatch.setattr(atomic, "_exchange", refuse)


# Interrupted.


@every_format
@pytest.mark.parametrize("exchange", [True, False])
def test_a_save_that_is_interrupted_at_any_move_leaves_the_old_or_the_new(
    place, name, exchange, monkeypatch, request
):
    if not exchange:
        request.getfixturevalue("_no_exchange")
    folder, before = place.parent, files_below(place.parent)
    LATER.save(place)
    after = files_below(folder)
    assert InterleavedOutput.load(place) == LATER
    move, seen = os.replace, []
    for last in range(100):
        story("earlier").save(place)
        assert files_below(folder) == before
        calls = []

        def interrupted(source, target, calls=calls, last=last):
            calls.append(source)
            if len(calls) == last + 1:
                raise KeyboardInterrupt
            move(source, target)

        monkeypatch.setattr(os, "replace", interrupted)
        try:
            LATER.save(place)
        except KeyboardInterrupt:
            assert files_below(folder) in (before, after)
            seen.append(last)
        else:
            break
        finally:
            monkeypatch.setattr(os, "replace", move)
    assert len(seen) == last
    assert last or (name == "story" and exchange)  # which goes by another call


@every_format
@pytest.mark.usefixtures("_no_exchange")
def test_a_disk_that_is_full_at_any_move_leaves_a_whole_run(place, monkeypatch):
    before = files_below(place.parent)
    move = os.replace
    for last in range(100):
        calls = []

        def full(source, target, calls=calls, last=last):
            calls.append(source)
            if len(calls) > last:
                raise OSError(errno.ENOSPC, "full")
            move(source, target)

        monkeypatch.setattr(os, "replace", full)
        try:
            LATER.save(place)
        except OSError:
            assert InterleavedOutput.load(place) in (story("earlier"), LATER)
            assert last or files_below(place.parent) == before
        else:
            break
        finally:
            monkeypatch.setattr(os, "replace", move)
        story("earlier").save(place)
        assert files_below(place.parent) == before
    assert last


KILLED = """
import itertools, os, random, signal, sys, time
from pathlib import Path
from data.output import InterleavedOutput
from output_samples import picture, story

place, chance = Path(sys.argv[1]), random.Random(0)
runs = [story("earlier"), InterleavedOutput(["later", picture(7), "and", picture(8)])]
for round in range(int(sys.argv[3])):
    reader, writer = os.pipe()
    saver = os.fork()
    if not saver:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            os.write(writer, b"!")
            for run in itertools.cycle(runs):
                run.save(place)
        except KeyboardInterrupt:
            os._exit(0)
        finally:
            os._exit(1)
    os.read(reader, 1)
    os.close(reader), os.close(writer)
    time.sleep(chance.random() * 0.02)
    os.kill(saver, getattr(signal, sys.argv[2]))
    # Python forgets an interruption that comes while it clears something away.
    patience = time.monotonic() + 1
    while os.waitpid(saver, os.WNOHANG) == (0, 0):
        if time.monotonic() > patience:
            os.kill(saver, getattr(signal, sys.argv[2]))
        time.sleep(0.001)
    assert InterleavedOutput.load(place) in runs, round
"""


def run_python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills what it forked")
@every_way
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_saver_that_is_killed_leaves_a_whole_run_and_nothing_that_the_next_one_does_not_clear(
    place, how
):
    run_python(KILLED, place, how, 8)
    story("earlier").save(place)
    assert InterleavedOutput.load(place) == story("earlier")
    assert not list(place.parent.rglob(".saving*"))
    assert not [path for path in place.parent.rglob("*-*.*") if path.name[0] in "0er"]


# Among others.


SAVERS = """
import os, sys, time
from pathlib import Path
from data.output import InterleavedOutput
from output_samples import picture

def run(number):
    return InterleavedOutput([f"run {number}", *(picture(number + n) for n in range(number % 3))])

place = Path(sys.argv[1])
runs = [run(number) for number in range(18)]
runs[0].save(place)
savers = []
for first in range(3):
    savers.append(os.fork())
    if not savers[-1]:
        try:
            for number in range(first, 18, 3):
                runs[number].save(place)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
while savers:
    assert InterleavedOutput.load(place) in runs
    if place.suffix == ".md":
        page = place.read_text("utf-8")
        assert page.count("](") == int(page.partition("run ")[2].partition("\\n")[0]) % 3
    done, status = os.waitpid(savers[0], os.WNOHANG)
    if done:
        assert status == 0
        savers.pop(0)
assert InterleavedOutput.load(place) in runs
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@every_way
def test_a_reader_among_three_savers_finds_a_whole_run_every_time(place):
    """Of three processes that saved to one place, one's text stood beside another's pictures."""
    run_python(SAVERS, place)
    assert not list(place.parent.rglob(".saving*"))


def test_a_living_savers_folder_is_not_cleared_away(tmp_path):
    with locks.staging(tmp_path) as living:
        story().save(tmp_path / "story.html")
        assert living.is_dir()
        with locks.staging(tmp_path) as another:
            assert another != living
    assert [path.name for path in tmp_path.iterdir()] == ["story.html"]


def test_savers_take_turns_and_one_that_hangs_does_not_hold_up_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.05)
    with locks.turn(tmp_path):
        assert story().save(tmp_path / "story.md")
    assert InterleavedOutput.load(tmp_path / "story.md") == story()
    assert not list(tmp_path.glob(".saving*"))


# Until its second heading, a page leads to pictures of its own save.


def test_a_markdown_page_that_was_left_half_way_leads_to_its_own_pictures(tmp_path, monkeypatch):
    place = story("earlier").save(tmp_path / "story.md")
    move = os.replace

    def stop_after_the_page(source, target):
        move(source, target)
        if Path(target).name == "story.md":
            os.kill(os.getpid(), signal.SIGKILL)

    if os.fork() == 0:
        os.replace = stop_after_the_page
        LATER.save(place)
    os.wait()
    page = place.read_text("utf-8")
    assert InterleavedOutput.load(place) == LATER
    links = [part.partition(")")[0] for part in page.split("](")[1:]]
    assert len(links) == 2
    assert not {"story_images/001_image.png"} & set(links)
    assert all((tmp_path / link).is_file() for link in links)
    assert InterleavedOutput.load(tmp_path / "story_images") == LATER


# Modes, links, places.


@every_format
def test_what_is_replaced_keeps_its_mode(place):
    for path in (place, *(place.parent.rglob("*_image.png"))):
        path.chmod(0o750 if path.is_dir() else 0o640)
    old = {path: stat.S_IMODE(path.stat().st_mode) for path in place.parent.rglob("*")}
    LATER.save(place)
    new = {path: stat.S_IMODE(path.stat().st_mode) for path in place.parent.rglob("*")}
    assert all(old[path] == new[path] for path in old.keys() & new.keys())
    assert new[place] in (0o750, 0o640)


def test_a_new_file_and_folder_have_the_usual_modes(tmp_path):
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual.txt").touch()
    for name, usual in (("a.html", "usual.txt"), ("b", "usual"), ("b/result.json", "usual.txt")):
        story().save(tmp_path / name.partition("/")[0])
        assert (tmp_path / name).stat().st_mode == (tmp_path / usual).stat().st_mode


@pytest.mark.parametrize("name", ["story.html", "story"])
def test_a_link_to_a_run_stays_a_link(tmp_path, name):
    (tmp_path / "far").mkdir()
    story("earlier").save(tmp_path / "far" / name)
    (tmp_path / name).symlink_to(tmp_path / "far" / name)
    LATER.save(tmp_path / name)
    assert (tmp_path / name).is_symlink()
    assert InterleavedOutput.load(tmp_path / "far" / name) == LATER


def test_the_current_folder_stays_where_it_is(tmp_path, monkeypatch):
    """A shell whose folder was exchanged stands in one that is gone."""
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    for run in (story("earlier"), LATER):
        run.save(".")
        assert InterleavedOutput.load(".") == run
    assert tmp_path.stat().st_ino == before


def test_what_others_lay_into_a_folder_while_it_is_exchanged_is_kept(tmp_path, monkeypatch):
    place = story("earlier").save(tmp_path / "story")
    exchange = atomic._exchange

    def others_are_faster(one, other):
        (other / "notes.txt").write_text("mine")
        exchange(one, other)

    monkeypatch.setattr(atomic, "_exchange", others_are_faster)
    LATER.save(place)
    assert (place / "notes.txt").read_text() == "mine"
    assert InterleavedOutput.load(place) == LATER
