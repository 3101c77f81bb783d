"""A second name for this library, by which tools that clone BAGEL into a package import it.

`bagel.data.transforms` *is* `data.transforms`, the same module object: whatever is imported by
either name is the same class, and what is set on one is set on both.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_ALIASED = ("auto_interleaved_inference", "data", "inferencer", "modeling")
_PREFIX = f"{__name__}."


class _AliasFinder(MetaPathFinder):
    """Finds `bagel.x` where x is a module of this library."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - import machinery gives it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return how to load a module of ours, and None for everything else."""
        name = fullname.removeprefix(_PREFIX)
        if name == fullname or name.partition(".")[0] not in _ALIASED:
            return None
        real = find_spec(name)
        if real is None:
            return None
        is_package = real.submodule_search_locations is not None
        return ModuleSpec(fullname, _AliasLoader(name), origin=real.origin, is_package=is_package)


class _AliasLoader(Loader):
    """Gives the one module that has another name already, as it is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        """Import the module by its own name."""
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: it ran already. Import machinery has given it the alias's spec meanwhile."""
        module.__spec__ = self._spec


if not any(type(finder).__name__ == _AliasFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _AliasFinder())
