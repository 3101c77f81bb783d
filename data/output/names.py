"""What files of saved runs are called, so that they are known for ours among a user's own."""

from __future__ import annotations

import mimetypes
import os
import re
import secrets
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from PIL import Image

from data.output.pictures import Pictures

_TAG = "-[0-9a-f]{8}"
_OWN = re.compile(
    rf"\d{{3,}}_text\.txt|(?:\d{{3,}}|extra_\d{{3,}})_image(?:{_TAG})?\.png|result(?:{_TAG})?\.json"
)
_FORMATS = (".html", ".md", ".json")
# The types that Python knows everywhere, and not what a machine adds to them.
_FILE_TYPES = mimetypes.MimeTypes(filenames=())


def document_name(tag: str = "") -> str:
    """Return the name of the file that describes a run."""
    return f"result{tag}.json"


def is_own(name: str) -> bool:
    """Tell whether a file in a run's folder has one of the names that a save gives."""
    return _OWN.fullmatch(name) is not None


def new_tag() -> str:
    """Return what sets a save's files apart from those that another save left."""
    return f"-{secrets.token_hex(4)}"


def picture_names(
    items: Sequence[str | Image.Image], pictures: Pictures, tag: str = ""
) -> list[str]:
    """Name pictures by their first place in the list; those beside it, say a prompt's, follow."""
    names: dict[int, str] = {}
    for place, item in enumerate(items):
        if not isinstance(item, str):
            names.setdefault(pictures.number(item), f"{place:03d}_image{tag}.png")
    beside = len(names)
    return [
        names.get(number, f"extra_{number - beside:03d}_image{tag}.png")
        for number in range(len(pictures))
    ]


def format_of(path: str | PathLike[str]) -> str:
    """Return the suffix that names a saved run's format; "" is a folder.

    A name may have dots in it, as `run_0.7` has: it is a folder's unless it ends as files of some
    known type do. One that exists, or ends in a slash, is a folder's anyway.

    Raises:
        ValueError: It ends like a file of a type that runs are not kept in.
    """
    given = os.path.expanduser(fspath(path))
    suffix = Path(given).suffix.lower()
    if suffix in _FORMATS and not given.endswith("/"):
        return suffix
    if given.endswith("/") or os.path.isdir(given) or not _is_file_type(suffix):
        return ""
    raise ValueError(
        f"{Path(given)} ends in {Path(given).suffix!r}; a run is kept in a file ending in .html, "
        ".md or .json, or in a folder, whose name does not end as a file's; for a folder of this "
        f"name write '{Path(given)}/'"
    )


def _is_file_type(suffix: str) -> bool:
    known = (*_FILE_TYPES.types_map, _FILE_TYPES.encodings_map, _FILE_TYPES.suffix_map)
    return any(suffix in group for group in known)
