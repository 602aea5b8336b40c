"""Import only what is used: packages whose ``__init__`` imports far more run it when somebody asks for a name of it.

diffusers' UNet takes one class from a package of sixty other models, and transformers scans the folders of all it
knows. All of that is paid by the second on a rented machine. A postponed package is the real one with its real
submodules; its own ``__init__`` runs when a name is wanted that it has not got yet. What another release imports
besides costs time, not a failure.

torch's compiler is not among them, although it takes longer than torch itself: its modules import each other in
circles, so that whether they can be imported later depends on which comes first, and on the memory left by then.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

_PACKAGES = (
    "transformers.models", "diffusers.hooks", "diffusers.models.autoencoders", "diffusers.models.transformers",
    "diffusers.models.unets",
)  # fmt: skip
"""They re-export names of their submodules and do nothing else."""
_LOCK = threading.RLock()
_WAITING: set[str] = set()


class _Postponed(ModuleType):
    """A package whose ``__init__`` has not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # inspect and warnings try many, of every module
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _LOCK:
            if self.__name__ in _WAITING:
                _WAITING.remove(self.__name__)  # what it asks of itself on the way is not there, as in any import
                assert self.__spec__ is not None and self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
        now = sys.modules[self.__name__]  # libraries of Hugging Face put a module of their own class in their place
        if now is not self or name in self.__dict__:
            return getattr(now, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def postpone(package: str) -> None:
    """Let ``package`` wait, if there is one and it has not been imported yet.

    Args:
        package: dotted name; its parents are imported.
    """
    with _LOCK:
        if package in sys.modules:
            return
        try:
            spec = importlib.util.find_spec(package)
        except ImportError:
            return  # its parent is not installed, or fails: an import of it says why
        if spec is None or spec.submodule_search_locations is None:
            return  # another release has no such package
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _Postponed
        _WAITING.add(package)
        sys.modules[package] = module
        parent, _, leaf = package.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)


def waiting() -> list[str]:
    """Packages whose ``__init__`` has not run yet."""
    return sorted(_WAITING)


def postpone_unused() -> None:
    """Let everything wait that diffusers and transformers import without need; before their first import."""
    for package in _PACKAGES:
        postpone(package)
