"""Where ``gpurent_sandbox`` was before: programs that import it from here get the same modules, not a second copy.

The name is put together at run time, since nothing of the product depends on the sandbox.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

_NEW = "gpurent_sandbox"
_package = importlib.import_module(_NEW)
for _found in pkgutil.walk_packages(_package.__path__, f"{_NEW}."):
    sys.modules[f"{__name__}{_found.name.removeprefix(_NEW)}"] = importlib.import_module(_found.name)
for _service in importlib.import_module(f"{_NEW}.installed").LOOK_ALIKES:  # ``address.vast_env()`` and the like
    setattr(importlib.import_module(f"{_NEW}.address").SandboxAddress, f"{_service.name}_env", _service.env)
sys.modules[__name__] = _package
