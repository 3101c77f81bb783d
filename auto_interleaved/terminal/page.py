"""The command `page`: its arguments, and what it says."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auto_interleaved.serving.limits import Limits
from auto_interleaved.terminal.arguments import (
    PROGRAM,
    ArgumentError,
    HelpFormatter,
    Parser,
    add_loading,
    whole_number,
)
from auto_interleaved.terminal.request import loading_of
from auto_interleaved.terminal.screen import Screen
