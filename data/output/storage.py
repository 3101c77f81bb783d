"""Runs on disk: which formats there are, and what files they are made of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

from data.output.atomic import Stage, put_file, put_stages, swap_folder
from data.output.markdown import markdown
from data.output.names import document_name, format_of, is_own, new_tag, picture_names
from data.output.pages import page, references
from data.output.pictures import Pictures, png_uri
from data.output.records import Record, dumps, to_document


def save(record: Record, path: str | PathLike[str]) -> Path:
    """Write a run in the format that the path's suffix names.

    Everything is encoded first, and what was saved there before is replaced by one rename: at
    every instant the earlier run or the later one can be read, whole. A folder is exchanged for
    another one if all of it is ours; if it holds other files too, is the current one, or lies
    where folders cannot be exchanged (Windows, some network file systems, mount points), its files
    are replaced one by one, and `load` finds a whole run at every instant.

    Args:
        record: What is to be saved.
        path: A folder, or a file ending in .html, .md or .json; parents are made.

    Returns:
        The path that was written.

    Raises:
        ValueError: It ends like a file of another type.
    """
    writers: dict[str, Callable[[Record, Path], None]] = {
        "": _save_folder,
        ".html": _save_page,
        ".md": _save_markdown,
        ".json": _save_json,
    }
    write = writers[format_of(path)]
    target = Path(path).expanduser()
    write(record, target)
    return target


def pictures_folder(path: Path) -> Path:
    """Return the folder of the pictures of a Markdown page."""
    return path.with_name(path.stem + "_images")


def _save_json(record: Record, path: Path) -> None:
    pictures = record.pictures()
    names = references(pictures)
    document = to_document(record, pictures, names)
    document["pictures"] = dict(zip(names, map(png_uri, pictures.pngs), strict=True))
    put_file(path, _bytes(dumps(document)))


def _save_page(record: Record, path: Path) -> None:
    pictures = record.pictures()
    document = dumps(to_document(record, pictures, references(pictures)))
    put_file(path, _bytes(page(record, pictures, document)))


def _save_folder(record: Record, path: Path) -> None:
    pictures = record.pictures()
    texts = {
        f"{place:03d}_text.txt": _bytes(item)
        for place, item in enumerate(record.items)
        if isinstance(item, str)
    }

    def stage(tag: str = "", texts: Mapping[str, bytes] | None = None) -> Stage:
        files = _picture_files(record, pictures, tag) | dict(texts or {})
        return Stage(files=files, heads={document_name(): _document(record, pictures, tag)})

    final = stage(texts=texts)
    if not swap_folder(path, {**final.files, **final.heads}):
        earlier = Path(os.path.realpath(path))
        put_stages(
            earlier,
            final,
            lambda: stage(new_tag()),
            _stale(earlier, earlier, final),
        )


def _save_markdown(record: Record, path: Path) -> None:
    pictures = record.pictures()
    folder = pictures_folder(path)

    def stage(tag: str = "") -> Stage:
        beside = _picture_files(record, pictures, tag)
        document = _document(record, pictures, tag)
        # A page that is not final leads to a document of its own.
        own = {document_name(tag): document} if tag else {}
        links = [f"{folder.name}/{name}" for name in picture_names(record.items, pictures, tag)]
        text = markdown(record, pictures, links, [f"{folder.name}/{name}" for name in own])
        return Stage(
            files={f"{folder.name}/{name}": data for name, data in {**beside, **own}.items()},
            heads={f"{folder.name}/{document_name()}": document, path.name: _bytes(text)},
        )

    final = stage()
    put_stages(path.parent, final, lambda: stage(new_tag()), _stale(path.parent, folder, final))


def _picture_files(record: Record, pictures: Pictures, tag: str) -> dict[str, bytes]:
    return dict(zip(picture_names(record.items, pictures, tag), pictures.pngs, strict=True))


def _document(record: Record, pictures: Pictures, tag: str) -> bytes:
    names = picture_names(record.items, pictures, tag)
    return _bytes(dumps(to_document(record, pictures, names)))


def _bytes(text: str) -> bytes:
    # Half a surrogate pair has no UTF-8; in JSON what replaces it here reads back as itself.
    return text.encode("utf-8", errors="backslashreplace")


def _stale(root: Path, folder: Path, final: Stage) -> Callable[[], set[str]]:
    """Return what tells the paths from the root of what an earlier save left in a folder."""
    # Only a folder with a document is known to be ours; elsewhere such names are someone else's.
    was_ours = (folder / document_name()).is_file()

    def stale() -> set[str]:
        within = folder.relative_to(root)
        names = filter(is_own, os.listdir(folder)) if was_ours else ()
        paths = {(within / name).as_posix() for name in names}
        return paths - {*final.files, *final.heads}

    return stale
