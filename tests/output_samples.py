"""Outputs that the tests of saving and showing share."""

from PIL import Image

from data.output import InterleavedOutput, Segment, Usage

NASTY = (
    "</script><script>alert(1)</script> <img src=x onerror=alert(1)> & &lt; \"quoted\" 'single'\n"
    "![x](http://example.org/y.png) [z](javascript:alert(1)) `code` ```\n"
    "# no heading\n\n- no list\n1. no list\n---\n===\n<!-- --> <![CDATA[ \\<b> \\\\ |a| $x$ ~s~\n"
    "\r\nwindows\r\nold mac\rtab\tNUL\x00 escape\x1b half \ud800 pair \ufffd \u2603 \U0001f642\n"
    "{title} {0} %s &#x3c;script&#x3e; www.example.org https://example.org <https://example.org>\n"
    "    indented\n\t> no quote\u2028next\u0085next\v\f"
)


def picture(shade: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture in which every pixel differs from its neighbours, of (width, height) `size`."""
    width, height = size
    pixels = bytes((shade + 7 * place) % 256 for place in range(3 * width * height))
    return Image.frombytes("RGB", size, pixels)


def text(words: str, role: str = "generated", **known: object) -> Segment:
    return Segment(kind="text", role=role, text=words, **known)


def image(shade: int, role: str = "generated", **known: object) -> Segment:
    return Segment(kind="image", role=role, image=picture(shade), **known)


def story(words: str = "Once upon a time.") -> InterleavedOutput:
    """A run with everything in it: a prompt with a picture, a thought, a failed image, an error."""
    return InterleavedOutput.from_segments(
        [
            text(f"Tell a story: {words}", "prompt", token_ids=(1, 2, 3)),
            image(90, "prompt"),
            text(f"I plan: {words}", "thought", token_ids=(4,), seconds=0.25),
            text(words, token_ids=(5, 6), seconds=0.1),
            image(10, seed=2**63 - 1, seconds=1 / 3),
            text("And then ", token_ids=(7,)),
            text("the end."),
            image(20, seed=8),
            Segment(kind="image", role="generated", size=(16, 24), seed=9, error="out of memory"),
        ],
        finish_reason="error",
        usage=Usage(prompt_tokens=14, text_tokens=4, thought_tokens=1, images=2, seconds=0.7),
        error=MemoryError(f"no room: {words}"),
        config={
            "protocol": "native",
            "cfg_interval": (0.4, 1.0),
            "note": words,
            "nested": {"a": None},
        },
    )
