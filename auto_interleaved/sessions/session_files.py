"""Sessions on disk: a folder, or one file; replaced in one step, read whole or refused by name."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from auto_interleaved.drivers.direct import Direct
from auto_interleaved.options.generation import (
    GenerationOptions,
    changed_options,
    make_options,
)
from auto_interleaved.run.asks import Result, Work
from auto_interleaved.run.contexts import empty_contexts
from auto_interleaved.run.standing import read_again
from auto_interleaved.sessions.session_document import Writing, images_of, latents_of
from auto_interleaved.sessions.session_parsing import Parsing, Saved, check_format
from auto_interleaved.sessions.turns import Entry, beside
from data.output.atomic import Stage, put_file, put_stages
from data.output.loading import read_steadily
from data.output.names import format_of, new_tag
from data.output.pictures import Pictures, check_decoded_size, decode_png, png_of_uri, png_uri
from data.output.records import dumps
from data.protocols import Protocol
from data.wording import shown
from inferencer import InterleaveInferencer
from modeling.bagel import Bagel

_DOCUMENT = "session.json"
_OWN = re.compile(r"session(_\d{3,})?(-[0-9a-f]{8})?\.(png|safetensors)")


def write_session(
    path: str | PathLike[str], model: Bagel, options: GenerationOptions, entries: Sequence[Entry]
) -> Path:
    """Write a session down; see `Session.save`."""
    target, is_file = _place(path)
    pictures, latents = Pictures(images_of(entries)), latents_of(entries)
    tensors = save_tensors({str(n): latent.cpu().contiguous() for n, latent in enumerate(latents)})

    def document(references: Sequence[str], **more: Any) -> bytes:
        writing = Writing(pictures=pictures, references=references, latents=latents)
        return dumps({**writing.document(model, options, entries), **more}).encode(
            errors="backslashreplace"  # half a surrogate pair has no UTF-8
        )

    def stage(tag: str = "") -> Stage:
        names, numbers = _names(len(pictures), tag), f"session{tag}.safetensors"
        return Stage(
            files={**dict(zip(names, pictures.pngs, strict=True)), numbers: tensors},
            heads={_DOCUMENT: document(names, latents=numbers)},
        )

    if is_file:
        names = _names(len(pictures))
        within = dict(zip(names, map(png_uri, pictures.pngs), strict=True))
        latents_within = base64.b64encode(tensors).decode()
        put_file(target, document(names, pictures=within, latents=latents_within))
    else:
        final = stage()
        put_stages(target, final, lambda: stage(new_tag()), _stale(target, final))
    return target


def load_session(
    inferencer: InterleaveInferencer,
    path: str | PathLike[str],
    given: Mapping[str, Any],
    protocol: Protocol,
) -> tuple[GenerationOptions, list[Entry]]:
    """Read back what `write_session` wrote, and into contexts again, each text and image once.

    Args:
        inferencer: the model.
        path: where it was saved.
        given: keyword arguments in place of the options that it was saved with.
        protocol: that the inferencer goes by.

    Returns:
        Options and turns.

    Raises:
        FileNotFoundError: if there is nothing at that path.
        ValueError: if it is no session of this model, is damaged, or had options that no file
            holds and that are not given.
    """
    saved = _saved(path, inferencer.model)
    needed = set(saved.needed) - set(given)
    if saved.protocol == protocol.name and "protocol" in needed:
        needed, given = needed - {"protocol"}, {**given, "protocol": protocol}
    if given.get("seed") is not None:
        needed -= {"generator"}
    if needed:
        names = sorted(needed)
        [default] = [o.default for o in fields(GenerationOptions) if o.name == names[0]]
        raise ValueError(
            f"the session in {path} was saved with {', '.join(names)}, which no file holds; "
            f"give it again, or {default!r}: load_session(path, {names[0]}=...)"
        )
    with _naming(path):
        options = make_options(saved.options)
    options = changed_options(options, given)
    options = replace(options, protocol=options.protocol or protocol)
    with _naming(path):
        return options, _read_again(inferencer, saved.entries)


def _read_again(inferencer: InterleaveInferencer, entries: Sequence[Entry]) -> list[Entry]:
    """Return turns with their contexts.

    Raises:
        ValueError: if these come out otherwise than they were.
    """
    contexts = empty_contexts(inferencer.model.new_context())
    known: list[Entry] = []
    for entry in entries:
        end = entry.end
        if end is not None:
            new = end.items[len(contexts.items) :]
            contexts = _computed(inferencer, read_again(new, contexts))
            if contexts.full.position != end.position:
                raise ValueError(
                    f"what was read takes {contexts.full.position} positions, not the "
                    f"{end.position} that it took"
                )
            end = replace(end, contexts=contexts, length=contexts.full.length)
        known = [*beside(known, end), replace(entry, end=end)]
    return known


def _computed(inferencer: InterleaveInferencer, work: Work[Result]) -> Result:
    """Return what work returns, which tells of no events."""
    try:
        next(Direct(inferencer).drive(work))
    except StopIteration as stop:
        result: Result = stop.value
        return result
    raise AssertionError("what is read has no events")


def _saved(path: str | PathLike[str], model: Bagel) -> Saved:
    """Return what files say.

    Raises:
        FileNotFoundError: if there is nothing at that path.
        ValueError: if what is there is no session of this model, or is damaged.
    """
    source = Path(path).expanduser()
    head = source / _DOCUMENT if source.is_dir() else source
    if not head.is_file():
        raise FileNotFoundError(f"there is no saved session at {source}")
    document, pngs, tensors = read_steadily(head, _read)

    def find(reference: Any) -> Any:
        if reference not in pngs:
            raise ValueError(f"the picture {shown(reference)} is missing")
        return decode_png(pngs[reference])

    with _naming(head):
        check_decoded_size(pngs.values())
        return Parsing(model, find, tensors).saved(document)


@contextmanager
def _naming(path: Path | str | PathLike[str]) -> Iterator[None]:
    """Let every complaint about a file's content say which file it is."""
    try:
        yield
    except (TypeError, ValueError, RecursionError, OverflowError, SafetensorError) as error:
        raise ValueError(
            f"{path} is no saved session for this model, or is damaged: {error}"
        ) from error


def _place(path: str | PathLike[str]) -> tuple[Path, bool]:
    """Return where a session is to be kept, and whether that is one file."""
    target = Path(path).expanduser()
    try:
        suffix: str | None = format_of(path)
    except ValueError:
        suffix = None
    if suffix not in ("", ".json"):
        raise ValueError(
            f"a session is kept in a folder or a file ending in .json, got {target.name!r}; "
            f"for a folder of this name write '{target}/'"
        )
    return target, bool(suffix)


def _names(count: int, tag: str = "") -> list[str]:
    return [f"session_{number:03d}{tag}.png" for number in range(count)]


def _stale(folder: Path, final: Stage) -> Callable[[], set[str]]:
    """Return what tells the names of what an earlier save left in a folder."""
    was_ours = (folder / _DOCUMENT).is_file()
    return lambda: {
        name
        for name in (os.listdir(folder) if was_ours else ())
        if _OWN.fullmatch(name) and name not in final.files
    }


def _read(head: Path) -> tuple[Any, Mapping[str, bytes], Mapping[str, Tensor]]:
    """Return a document, its pictures by their references, and its latents by their names."""
    with _naming(head):
        document = json.loads(head.read_bytes().decode())
        check_format(document)
        within, latents = document.get("pictures"), document.get("latents")
        if isinstance(within, dict):
            pngs = {reference: png_of_uri(uri) for reference, uri in within.items()}
            return document, pngs, load_tensors(base64.b64decode(str(latents), validate=True))
        # A document from somewhere else must not make us read files outside of its folder.
        names = {name for name in os.listdir(head.parent) if _OWN.fullmatch(name)}
        if latents not in names:
            raise ValueError(f"the file {shown(latents)} is missing")
        used = {name for name in names if name.endswith(".png")}
        pngs = {name: (head.parent / name).read_bytes() for name in used}
        return document, pngs, load_tensors((head.parent / latents).read_bytes())
