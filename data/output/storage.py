"""Runs on disk: which formats there are, what files they are made of, how they are read back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from PIL import Image

from data.output.atomic import put_files
from data.output.markdown import markdown
from data.output.pages import page, read_page, references
from data.output.pictures import Pictures, decode_png, png_of_uri, png_uri
from data.output.records import Record, dumps, from_document, to_document

DOCUMENT = "result.json"
_OWN_FILE = re.compile(r"\d{3,}_text\.txt|(?:\d{3,}|extra_\d{3,})_image\.png|result\.json")


def save(record: Record, path: str | PathLike[str]) -> Path:
    """Write a run in the format that the path's suffix names.

    Everything is encoded first, written beside its place and only then moved there, so that a
    save that fails or is interrupted leaves an earlier one as it was.

    Args:
        record: What is to be saved.
        path: A folder (no suffix), or a file ending in .html, .md or .json; parents are made.

    Returns:
        The path that was written.

    Raises:
        ValueError: The suffix is another one.
    """
    target = Path(path).expanduser()
    plan = _writer(target)(record, target)
    files = {name: _bytes(content) for name, content in plan.files.items()}
    put_files(plan.root, files, remove=_stale(plan))
    return target


def load(path: str | PathLike[str]) -> Record:
    """Read back a run that `save` wrote.

    Args:
        path: The folder or file that was saved.

    Raises:
        FileNotFoundError: There is nothing at that path.
        ValueError: What is there is not a saved run, or is damaged.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        return _load_document(source / DOCUMENT)
    readers = {".html": _load_page, ".md": _load_beside, ".json": _load_document}
    _writer(source)  # the same suffixes, refused in the same words
    if not source.is_file():
        raise FileNotFoundError(f"there is no saved run at {source}")
    return readers[source.suffix.lower()](source)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The files that make a saved run.

    Attributes:
        root: The folder that they lie in.
        files: Their content by path from the root.
        own_folder: The folder that is this run's alone, where it has one: what an earlier save
            left in there goes.
    """

    root: Path
    files: Mapping[str, str | bytes]
    own_folder: Path | None = None


def _writer(path: Path) -> Callable[[Record, Path], _Plan]:
    writers = {"": _as_folder, ".html": _as_page, ".md": _as_markdown, ".json": _as_json}
    suffix = path.suffix.lower()
    if suffix not in writers:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; a run is kept in a file ending in .html, .md or "
            ".json, or in a folder, whose name has no suffix"
        )
    return writers[suffix]


def _as_folder(record: Record, path: Path) -> _Plan:
    texts = {
        f"{place:03d}_text.txt": item
        for place, item in enumerate(record.items)
        if isinstance(item, str)
    }
    files = texts | _pictures_and_document(record, record.pictures())
    return _Plan(root=path, files=files, own_folder=path)


def _as_json(record: Record, path: Path) -> _Plan:
    pictures = record.pictures()
    names = references(pictures)
    document = to_document(record, pictures, names)
    document["pictures"] = dict(zip(names, map(png_uri, pictures.pngs), strict=True))
    return _Plan(root=path.parent, files={path.name: dumps(document)})


def _as_page(record: Record, path: Path) -> _Plan:
    pictures = record.pictures()
    document = dumps(to_document(record, pictures, references(pictures)))
    return _Plan(root=path.parent, files={path.name: page(record, pictures, document)})


def _as_markdown(record: Record, path: Path) -> _Plan:
    pictures = record.pictures()
    folder = _pictures_folder(path)
    beside = _pictures_and_document(record, pictures)
    files = {f"{folder.name}/{name}": content for name, content in beside.items()}
    links = [f"{folder.name}/{name}" for name in _picture_names(record, pictures)]
    text = markdown(record, pictures, links)
    return _Plan(root=path.parent, files=files | {path.name: text}, own_folder=folder)


def _pictures_and_document(record: Record, pictures: Pictures) -> dict[str, str | bytes]:
    names = _picture_names(record, pictures)
    files: dict[str, str | bytes] = dict(zip(names, pictures.pngs, strict=True))
    return files | {DOCUMENT: dumps(to_document(record, pictures, names))}


def _pictures_folder(path: Path) -> Path:
    return path.with_name(path.stem + "_images")


def _picture_names(record: Record, pictures: Pictures) -> list[str]:
    """Name pictures by their first place in the list; those beside it, say a prompt's, follow."""
    names: dict[int, str] = {}
    for place, item in enumerate(record.items):
        if not isinstance(item, str):
            names.setdefault(pictures.number(item), f"{place:03d}_image.png")
    beside = len(names)
    return [
        names.get(number, f"extra_{number - beside:03d}_image.png")
        for number in range(len(pictures))
    ]


def _bytes(content: str | bytes) -> bytes:
    if isinstance(content, bytes):
        return content
    # Half a surrogate pair has no UTF-8; in JSON what replaces it here reads back as itself.
    return content.encode("utf-8", errors="backslashreplace")


def _stale(plan: _Plan) -> set[str]:
    """Return the paths from the root of what an earlier save left in the plan's own folder."""
    # Only a folder with a document is known to be ours; elsewhere such names are someone else's.
    if plan.own_folder is None or not (plan.own_folder / DOCUMENT).is_file():
        return set()
    within = plan.own_folder.relative_to(plan.root)
    names = filter(_OWN_FILE.fullmatch, os.listdir(plan.own_folder))
    return {(within / name).as_posix() for name in names}


def _load_document(path: Path) -> Record:
    """Load a JSON file, whose pictures are in it or beside it."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a saved run: it has no file {path.name}")
    with _naming(path):
        document = json.loads(_text(path))
        within = document.get("pictures", {}) if isinstance(document, dict) else {}
        return from_document(document, _finder(within, path.parent))


def _load_page(path: Path) -> Record:
    with _naming(path):
        document, within = read_page(_text(path))
        return from_document(json.loads(document), _finder(within, path.parent))


def _finder(within: Mapping[str, str], folder: Path) -> Callable[[str], Image.Image]:
    """Return what finds a picture by its reference: within the file, else in its folder."""

    def find(reference: str) -> Image.Image:
        if reference in within:
            return decode_png(png_of_uri(within[reference]))
        # A document from somewhere else must not make us read files outside of its folder.
        if not _OWN_FILE.fullmatch(reference) or not (folder / reference).is_file():
            raise ValueError(f"the picture {reference!r} is missing")
        try:
            return decode_png((folder / reference).read_bytes())
        except ValueError as error:
            raise ValueError(f"{reference} is {error}") from error

    return find


def _load_beside(path: Path) -> Record:
    return _load_document(_pictures_folder(path) / DOCUMENT)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let every complaint about a file's content say which file it is."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a saved run, or is damaged: {error}") from error
