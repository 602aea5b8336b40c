"""Which Python a machine's programs run with, found over SSH in whatever an image is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpurent.errors import HostUnfit
from gpurent.spi import Host, Runtime
from gpurent_remote import runtime, shell

REAL = Path(sys.executable)


def tools(folder: Path) -> Path:
    """A folder for PATH that holds everything but Python."""
    folder.mkdir(parents=True)
    for place in (Path("/usr/bin"), Path("/bin")):
        for tool in place.iterdir():
            if not tool.name.startswith(("python", "pip")) and not (folder / tool.name).exists():
                (folder / tool.name).symlink_to(tool)
    return folder


def python(path: Path, *, torch: str | None = "2.8.0", version: tuple[int, int] = (3, 12)) -> Path:
    """A Python that says it is of ``version`` and has torch ``torch``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    site = path.parent.parent / f"site-{path.name}"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(
        f"import sys; sys.version_info = {(*version, 0)!r}; sys.path[:] = [p for p in sys.path if 'site-pack' not in p]"
    )
    if torch is not None:
        found = site / f"torch-{torch}.dist-info"
        found.mkdir(exist_ok=True)
        (found / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")
    path.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {REAL} "$@"\n')
    path.chmod(0o755)
    return path


class Machine:
    """A folder that stands for a machine, where the search runs as a session would run it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "machine"
        self.home = self.root / "root"
        (self.home / ".gpurent").mkdir(parents=True)
        self.path = tools(folder / "tools")

    def start(self, **env: str) -> None:
        """Let the start-up script write down the environment of the image."""
        env = {"HOME": "/", **env}
        with (self.home / ".gpurent/env").open("w") as file:
            subprocess.run(["/bin/sh", "-c", "export -p"], env=env, stdout=file, check=True, cwd="/")

    def sh(self, script: str, *, given: str = "") -> str:
        argv = ["/bin/sh", "-s"] if not script else ["/bin/sh", "-c", script]
        env = {"PATH": str(self.path), "HOME": str(self.home), "GPURENT_ROOT": str(self.root)}
        ended = subprocess.run(argv, input=given, env=env, cwd=self.home, capture_output=True, text=True, check=True)
        return ended.stdout

    def search(self) -> Runtime:
        mark = shell.marker()
        return runtime.read(shell.after(self.sh("", given=runtime.find(mark)), mark).splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_images_python_is_found_though_sessions_do_not_have_it_in_their_path(machine: Machine) -> None:
    """pytorch/pytorch: Python is in PATH of the image's ENV only."""
    there = python(machine.root / "opt/somewhere/bin/python3")
    machine.start(PATH=f"{there.parent}:{machine.path}")
    found = machine.search()
    assert found == Runtime(str(there), (3, 12), "2.8.0", str(machine.home), found.user, True)


def test_of_two_pythons_the_one_with_torch_is_taken(machine: Machine) -> None:
    """runpod/pytorch: ``python3`` is 3.10 without torch, ``python`` 3.12 with it."""
    python(machine.root / "usr/bin/python3", torch=None, version=(3, 10))
    there = python(machine.root / "usr/bin/python")
    machine.start(PATH=f"{there.parent}:{machine.path}")
    assert machine.search().python == str(there)


@pytest.mark.parametrize("place", ["venv/main/bin/python", "opt/conda/bin/python3", "usr/local/bin/python3.12"])
def test_usual_places_are_looked_at_where_no_path_leads_there(machine: Machine, place: str) -> None:
    """Vast.ai's image keeps torch in a virtual environment, older PyTorch images in conda."""
    python(machine.root / "usr/bin/python3", torch=None)
    there = python(machine.root / place)
    assert machine.search().python == str(there)


def test_the_path_of_the_first_process_counts_where_no_start_up_script_ran(machine: Machine) -> None:
    """A container that a person rented and listed as a machine of their own."""
    there = python(machine.root / "opt/odd/bin/python3")
    (machine.root / "proc/1").mkdir(parents=True)
    (machine.root / "proc/1/environ").write_bytes(f"A=b\0PATH={there.parent}:/bin\0".encode())
    found = machine.search()
    assert (found.python, found.started) == (str(there), False)


def test_an_environment_of_ours_goes_before_the_images_python(machine: Machine) -> None:
    """Packages that were installed once are not installed again; an unfinished environment does not count."""
    images = python(machine.root / "opt/conda/bin/python3")
    ours = python(machine.home / runtime.VENV / "bin/python")
    assert machine.search().python == str(images)
    (machine.home / runtime.VENV_READY).touch()
    assert machine.search().python == str(ours)


def test_a_python_that_is_too_old_is_named(machine: Machine) -> None:
    """With the version that was found and where, and what to choose instead; it is the image's fault."""
    python(machine.root / "usr/bin/python3", version=(3, 10))
    with pytest.raises(HostUnfit, match=r"newest Python is 3\.10 at /.*/usr/bin/python3") as raised:
        machine.search()
    assert raised.value.image and raised.value.trait == "old_python" and "3.11" in raised.value.hint


def test_an_image_without_python_is_named(machine: Machine) -> None:
    """``nvidia/cuda`` has none."""
    with pytest.raises(HostUnfit, match="has no Python") as raised:
        machine.search()
    assert raised.value.trait == "no_python"


def test_what_a_machine_answers_is_not_believed(machine: Machine) -> None:
    """A home that is not a path, a broken answer, paths with control characters: a typed error, or left out."""
    for lines in ([], ["home /root"], ["home root", "end"], ["home /" + "x" * 500, "end"]):
        with pytest.raises(HostUnfit):
            runtime.read(lines)
    with pytest.raises(HostUnfit, match="has no Python"):
        runtime.read(["home /root", "python 3.12 2.8.0 /usr/bin/py\x1b[2Jthon", "python 3.12 2.8.0 relative", "end"])


def test_commands_get_the_environment_of_the_image_without_its_secrets(machine: Machine) -> None:
    """HOME stays the login folder; quotes and line breaks in values survive; keys and tokens are dropped."""
    there = python(machine.root / "opt/conda/bin/python3")
    odd = 'it\'s\n"two" lines'
    keys = dict.fromkeys(("CONTAINER_API_KEY", "HF_TOKEN", "JUPYTER_PASSWORD"), "secret")
    machine.start(PATH=f"{there.parent}:{machine.path}", LD_LIBRARY_PATH="/usr/local/nvidia/lib", ODD=odd, **keys)
    (machine.home / runtime.ENTER).write_text(runtime.enter(str(there)))
    given = machine.sh(f'. "$HOME/{runtime.ENTER}"; echo "$GPURENT_PYTHON"; pwd; env')
    python_path, folder, *rest = given.splitlines()
    assert python_path == str(there) and folder == str(machine.home)
    assert f"HOME={machine.home}" in rest and "LD_LIBRARY_PATH=/usr/local/nvidia/lib" in rest
    assert 'ODD=it\'s\n"two" lines' in given and "secret" not in given


SHELLS = {"dash": "-c", "bash": "-c", "tcsh": "-c"}


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    "command",
    [
        "printf '%s|' a 'b  c' \"d'e\"; exit 3",
        "x='!!'; printf '%s|' \"$x\" '!a' \"it's\"; exit 3",
        "printf '%s|' 'two\nlines' '\\n' '$HOME' '`id`' 'ü'; exit 3",
    ],
)
def test_a_command_means_the_same_in_every_login_shell(name: str, command: str) -> None:
    """History, line breaks and quotes are nothing to csh, which universities still give their accounts."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    wanted = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False)
    mark = shell.marker()
    ended = subprocess.run([program, SHELLS[name], shell.marked(command, mark)], capture_output=True, check=False)
    assert shell.after(ended.stdout.decode(), mark) == wanted.stdout.decode()
    assert (ended.returncode, ended.stderr) == (wanted.returncode, b"")


def test_what_the_login_shell_says_by_itself_is_left_out(host: Host) -> None:
    """Only what comes after the marker is a command's own."""
    mark = shell.marker()
    assert shell.after(f"Welcome!\nHave fun.\n{mark}\nown\n", mark) == "own\n"
    with pytest.raises(HostUnfit, match="This account is not available") as raised:
        shell.after("This account is not available.\n", mark)
    assert raised.value.trait == "shell"


def test_a_connected_machine_runs_programs_with_its_python(host: Host) -> None:
    """Input and output of a program are its own, whatever characters its text has."""
    source = "import sys\nprint(repr(sys.stdin.read()), \"it's!\", '$HOME')"
    ended = host.python(source, stdin=b"a\nb")
    assert (ended.status, ended.stdout) == (0, "'a\\nb' it's! $HOME\n")
    found = host.runtime()
    assert found.python.endswith("/bin/python3") and found.home.endswith("/root") and found.started
