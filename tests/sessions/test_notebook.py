"""The notebook of the documentation is run as a person runs it: cell after cell, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.session.world import Cli, make_job

NOTEBOOK = Path(__file__).parents[2] / "examples" / "sessions.ipynb"


def cells() -> list[str]:
    """The code of the notebook."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_trains_two_loras_on_one_machine_and_leaves_nothing_behind(cli: Cli) -> None:
    """Each cell is executed by itself, as a kernel does; what it prints names both files and what waiting cost."""
    make_job(cli.folder)
    program = "import json, sys\nspace = {}\nfor cell in json.loads(sys.stdin.read()):\n    exec(cell, space)\n"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(cells()),
        cwd=cli.folder,
        env=cli.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    assert "first.safetensors" in ran.stdout and "second.safetensors" in ran.stdout
    assert "waiting" in ran.stdout
    assert cli.sandbox.truth() == []
