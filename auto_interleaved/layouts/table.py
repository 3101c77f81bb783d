"""The layouts by name."""

from __future__ import annotations

from auto_interleaved.layouts.layout import Layout
from auto_interleaved.layouts.lists import COMM, ISG, MMIE, PLAIN
from auto_interleaved.layouts.mmmg import MMMG
from auto_interleaved.layouts.opening import OPENING
from auto_interleaved.layouts.risebench import RISEBENCH
from auto_interleaved.layouts.unimmmu import UNIMMMU
from auto_interleaved.layouts.weave import WEAVE

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (OPENING, ISG, MMIE, COMM, WEAVE, RISEBENCH, MMMG, UNIMMMU, PLAIN)
}
