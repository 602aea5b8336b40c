"""One tiny base model and one tiny dataset for all tests of the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion 1.x in miniature, as a diffusers folder."""
    from tests.engine import tiny_model

    return tiny_model.build(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six captioned pictures of 32 pixels."""
    from tests.engine import tiny_model

    return tiny_model.pictures(tmp_path_factory.mktemp("pictures"))
