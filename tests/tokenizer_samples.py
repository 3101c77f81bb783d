"""Texts that tokenizers differ on, and the golden tokenizer files to edit."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

CHECKPOINT = Path(__file__).parent / "golden" / "checkpoint"
FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
MARKERS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
QUOTED = "write <|vision_start|> or <|im_end|>"
SAMPLE = (
    "Create a robot.",
    "It's don't WE'LL they'Ve I'd, 'tis; o\u2019clock 'ſ",
    "2024-12-31 costs 1234567.89 ½ Ⅷ ٣ ²",
    "  two  spaces, tab\there \n\n new\r\nlines \n  end  ",
    "a , b . don 't ! ? ( c )",
    "été e\u0301te\u0301 ﬁ Å naïve",
    "한국어 日本語 中文。हिन्दी ไทย עברית العربية",
    "🎉👩‍👩‍👧 \u200b\ufeff\u00a0\u3000\u2028\x00\x1c\x85",
    "def f(x):\n    return x**2  # $_^~`|<>",
    "",
)

law = settings(deadline=None, database=None)  # neither a timed assertion nor a file left behind
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
bits = st.sampled_from(
    ["'s", "'S", "'ſ", " ", "\n", "\t", "\x1c", "7", "Ⅷ", "a", " The", "é", "e\u0301"]
)
mixtures = st.lists(bits, max_size=12).map("".join)


def copy_checkpoint(
    directory: Path, files: Iterable[str] = FILES, edit: Callable[[dict], object] | None = None
) -> Path:
    """The golden tokenizer files, some of them, with an edited configuration."""
    for name in files:
        shutil.copyfile(CHECKPOINT / name, directory / name)
    if edit:
        config = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())
        edit(config)
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
