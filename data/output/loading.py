"""Runs read back from disk, also while others save there: whole, or refused by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from data.output.markdown import document_of
from data.output.names import document_name, format_of, is_own
from data.output.pages import read_page
from data.output.parsing import from_document, references_of
from data.output.pictures import check_decoded_size, decode_png, png_of_uri
from data.output.records import Record
from data.output.storage import pictures_folder

Found = TypeVar("Found")

_ATTEMPTS = 1000  # of reading what is being saved over; each takes about a millisecond


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What the files of a saved run hold.

    Attributes:
        source: The file that says what the run is.
        document: Its content.
        pngs: Pictures by their references.
        missing: What is wrong with pictures that cannot be had, by their references.
    """

    source: Path
    document: Any
    pngs: Mapping[str, bytes]
    missing: Mapping[str, str] = field(default_factory=dict)


def load(path: str | PathLike[str]) -> Record:
    """Read back a run that `save` wrote.

    Args:
        path: The folder or file that was saved.

    Raises:
        FileNotFoundError: There is nothing at that path.
        ValueError: What is there is not a saved run, is damaged, or holds pictures that would
            take more memory than anything that is kept in files of their size.
    """
    source = Path(path).expanduser()
    if source.is_dir():
        return _record(read_steadily(source / document_name(), _read_document))
    readers = {".html": _read_page, ".md": _read_markdown, ".json": _read_document}
    suffix = format_of(path)  # the same suffixes, refused in the same words
    if suffix not in readers or not source.is_file():
        raise FileNotFoundError(f"there is no saved run at {source}")
    return _record(read_steadily(source, readers[suffix]))


def read_steadily(head: Path, read: Callable[[Path], Found]) -> Found:
    """Read files that one of them leads to, again if that was replaced meanwhile."""
    for _ in range(_ATTEMPTS):
        before = _identity(head)
        try:
            found = read(head)
        except (OSError, ValueError):
            if _identity(head) == before:
                raise
        else:
            if _identity(head) == before:
                return found
        time.sleep(0.001)
    raise ValueError(f"{head} is being written over again and again; read it when that is over")


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        known = os.stat(path)
    except OSError:
        return None
    return known.st_dev, known.st_ino, known.st_mtime_ns, known.st_size


def _read_document(path: Path) -> _Found:
    """Read a JSON file, whose pictures are in it or beside it."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is not a saved run: it has no file {path.name}")
    with _naming(path):
        document = json.loads(_text(path))
        within = document.get("pictures", {}) if isinstance(document, dict) else {}
        return _found(path, document, within if isinstance(within, dict) else {})


def _read_page(path: Path) -> _Found:
    with _naming(path):
        document, within = read_page(_text(path))
        return _found(path, json.loads(document), within)


def _read_markdown(path: Path) -> _Found:
    with _naming(path):
        name = document_of(_text(path))
    folder = pictures_folder(path)
    own = name is not None and is_own(name) and (folder / name).is_file()
    return _read_document(folder / (name if own and name else document_name()))


def _found(source: Path, document: Any, within: Mapping[str, Any]) -> _Found:
    """Collect the pictures that a document names: within its file, else in its folder."""
    pngs, missing = {}, {}
    for reference in references_of(document):
        if reference in within:
            pngs[reference] = png_of_uri(within[reference])
        # A document from somewhere else must not make us read files outside of its folder.
        elif is_own(reference) and (source.parent / reference).is_file():
            pngs[reference] = (source.parent / reference).read_bytes()
        else:
            missing[reference] = f"the picture {reference!r} is missing"
    return _Found(source=source, document=document, pngs=pngs, missing=missing)


def _record(found: _Found) -> Record:
    def find(reference: str) -> Any:
        if reference in found.missing:
            raise ValueError(found.missing[reference])
        try:
            return decode_png(found.pngs[reference])
        except ValueError as error:
            raise ValueError(f"{reference} is {error}") from error

    with _naming(found.source):
        check_decoded_size(found.pngs.values())
        return from_document(found.document, find)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let every complaint about a file's content say which file it is."""
    try:
        yield
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is not a saved run, or is damaged: {error}") from error
