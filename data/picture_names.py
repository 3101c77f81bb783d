"""Strings that name or hold a picture where words are expected.

A model asked about words such as "photos/v.png" answers as if it had seen the picture.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from data.picture_sources import (
    is_base64_picture,
    is_file,
    is_file_url,
    starts_as_picture,
)
from data.wording import shown

_SUFFIXES = (
    "apng|avif|bmp|dib|gif|heic|heif|ico|j2k|jfif|jp2|jpe|jpeg|jpg|jxl|pbm|pgm|png|pnm|ppm|psd|svg"
    "|tga|tif|tiff|webp"
)
_SUFFIX = re.compile(_SUFFIXES, re.IGNORECASE)
_IN_A_QUERY = re.compile(rf"[.=]({_SUFFIXES})\b", re.IGNORECASE)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://\S+", re.IGNORECASE)
_DATA_URL = re.compile(
    r"data:([^\s,]*;base64,[\r\n]*([\w+/%-]{4}|\Z)|image/[\w.+-]+(;(?!base64)[\w=-]+)?,)",
    re.IGNORECASE,
)
_DATA_URL_INSIDE = re.compile(r"data:image/[\w.+-]+;base64,\s*[\w+/%-]{24}", re.IGNORECASE)

# Where a path begins that may hold spaces: a drive, a share, here, home, or a folder of the root.
_PATH_WITH_SPACES = re.compile(r"([a-z]:[/\\]|\\\\|\.{1,2}[/\\]|~[/\\]|/[^/\s]+/)", re.IGNORECASE)
_LONGEST_NAME = 4096
_QUOTES = "\"'`<>"


def refuse_picture_name(text: str, place: str) -> None:
    """Refuse a text that is no words but a picture's path, URL or data.

    That is: a file that exists and is a picture; one or several names that end as image files do;
    an absolute path or one that starts with a dot that does so, also with spaces; the URL of such a
    file; a `data:` URL or base64 of a picture, the former also between words. Prose that mentions a
    file's name is words.

    Raises:
        ValueError: if it is; the message says what to write instead.
    """
    remedy = _remedy(text)
    if remedy:
        raise ValueError(
            f"{place} names a picture, and would be read as words, got {shown(text)}; {remedy}; "
            f'if words are meant, put {{"type": "text", "text": ...}} into a list'
        )


def names_picture(text: str) -> bool:
    """Tell whether a text is no words but a picture's path, URL or data."""
    return bool(_remedy(text))


def _remedy(text: str) -> str:
    """Return how to pass the picture that a text names, or nothing."""
    name = text.strip().strip(_QUOTES)
    if _DATA_URL.match(name) or _DATA_URL_INSIDE.search(text):
        return 'for the picture write {"type": "image", "url": "data:..."}'
    if is_base64_picture(name):
        return 'for the picture write {"type": "image", "base64": ...}'
    if len(name) > _LONGEST_NAME:
        return ""
    if is_file_url(name) and (_is_name(name) or not re.search(r"\s", name)):
        return f'for the picture write {{"type": "image", "url": {shown(name)}}}'
    if _is_picture_file(name) or _is_path_with_spaces(name):
        return f"for the picture write {_path(name)}"
    tokens = [token.strip(_QUOTES) for token in re.split(r"[\s,;]+", name) if token]
    if tokens and all(map(_is_url, tokens)):
        return "no URL is fetched: load the picture yourself and pass it"
    if tokens and all(_is_url(token) or _is_name(token) for token in tokens):
        return f"for the picture write {_path(tokens[0])}"
    return ""


def _path(name: str) -> str:
    return f"pathlib.Path({shown(name)})" + (".expanduser()" if name.startswith("~") else "")


def _is_picture_file(name: str) -> bool:
    if "\n" in name or not is_file(name):
        return False
    if _is_name(name):
        return True
    try:
        with open(name, "rb") as file:
            return starts_as_picture(file.read(16))
    except OSError:
        return False


def _is_path_with_spaces(name: str) -> bool:
    return _PATH_WITH_SPACES.match(name) is not None and "\n" not in name and _is_name(name)


def _is_name(name: str) -> bool:
    stem, _, suffix = re.split(r"[/\\]", name)[-1].rpartition(".")
    return bool(stem.strip(". ")) and _SUFFIX.fullmatch(suffix) is not None


def _is_url(token: str) -> bool:
    if not _URL.fullmatch(token):
        return False
    try:
        parts = urlsplit(token)
    except ValueError:
        return False
    return _is_name(parts.path) or _IN_A_QUERY.search(parts.query) is not None
