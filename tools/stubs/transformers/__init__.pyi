# pyright would read all of transformers for a dozen names; its values are narrowed where they enter our code.
from typing import Any

def __getattr__(name: str) -> Any: ...
