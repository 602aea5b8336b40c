"""Files both ways: whole and verified, or absent."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.remote.conftest import Rented

from gpurent.errors import CommandFailed, HostError, SourceChanged, TransferFailed
from gpurent.spi import Host, LocalFile
from gpurent_remote.files import check_target
from gpurent_remote.lanes import BLOCK, LANES, SMALL, lanes_for
from gpurent_remote.receiver import Heard
from gpurent_sandbox.faults import Fault

MIB = 1024 * 1024


def local(folder: Path, name: str, data: bytes, target: str | None = None) -> LocalFile:
    path = folder / name
    path.write_bytes(data)
    return LocalFile(path, target or name, len(data), hashlib.sha256(data).hexdigest())


def digest(host: Host, path: str) -> str:
    return host.run(f"sha256sum {path}").stdout.split()[0]


def test_files_arrive_whole_under_their_names(host: Host, tmp_path: Path) -> None:
    """Folders are made, empty files and names with blanks and umlauts included; no partial file is left."""
    files = [
        local(tmp_path, "big", os.urandom(3 * MIB + 17), "set/10_größe x/big.png"),
        local(tmp_path, "empty", b"", "set/10_größe x/empty.txt"),
    ]
    told: list[int] = []
    host.put(files, "arrive", told.append)
    assert sum(told) == files[0].size
    assert digest(host, "'arrive/set/10_größe x/big.png'") == files[0].sha256
    assert host.run("find arrive -type f | wc -l").stdout.strip() == "2"


def test_what_is_there_already_is_not_sent_again(host: Host, tmp_path: Path) -> None:
    """The second upload leaves the file untouched, yet reports its bytes as done."""
    file = local(tmp_path, "same", os.urandom(5000))
    told: list[int] = []
    host.put([file], "again")
    inode = host.run("stat -c %i again/same").stdout
    host.put([file], "again", told.append)
    assert host.run("stat -c %i again/same").stdout == inode
    assert sum(told) == file.size


LARGE = SMALL + 3 * BLOCK + 17
LEFT: dict[str, Callable[[bytes], bytes]] = {
    "half of it": lambda data: data[: 5 * BLOCK],
    "its end": lambda data: bytes(5 * BLOCK) + data[5 * BLOCK :],
    "something else": lambda _data: b"x" * 200_000,
    "more than it": lambda data: data[: LARGE // 2] + b"x" * LARGE,
    "all of it": lambda data: data,
}


@pytest.mark.parametrize("left", LEFT)
def test_of_a_partial_file_only_what_is_ours_is_used(host: Host, tmp_path: Path, left: str) -> None:
    """Blocks that an earlier attempt left are used if their digests are those of our own, and replaced otherwise."""
    data = os.urandom(LARGE)
    file = local(tmp_path, left.replace(" ", "-"), data)
    host.put_bytes(LEFT[left](data), f"parts/{file.target}.part")
    told: list[int] = []
    host.put([file], "parts", told.append)
    assert digest(host, f"parts/{file.target}") == file.sha256
    assert sum(told) == file.size
    assert host.run(f"ls parts/{file.target}*").stdout.split() == [f"parts/{file.target}"]
    host.run("rm -r parts")


def test_a_file_that_cannot_be_written_is_an_error_that_says_why(host: Host, tmp_path: Path) -> None:
    """A folder is in its place; no other way to send it is tried."""
    file = local(tmp_path, "taken", b"x")
    host.run("mkdir -p full/taken")
    with pytest.raises(CommandFailed, match=r"could not write a file.*Is a directory"):
        host.put([file], "full")


@pytest.mark.cuts_links
def test_files_travel_over_sftp_where_the_receiver_breaks(rented: Rented, tmp_path: Path) -> None:
    """It ends in the middle, as one that is killed for its memory does: what it has written already counts."""
    files = [local(tmp_path, "small", b"small"), local(tmp_path, "large", os.urandom(LARGE))]
    with closing(rented.host()) as host:
        python = host.runtime().python
        host.put_bytes(b"import os\nos.replace = lambda *_: os.kill(os.getpid(), 9)\n", "mortal/sitecustomize.py")
        once = "[ -e sftp/once ] || { mkdir sftp; : > sftp/once; export PYTHONPATH=$PWD/mortal; }"
        host.put_bytes(f'#!/bin/sh\n{once}\nexec {python} "$@"\n'.encode(), "mortal/python", mode=0o700)
        host.run('cp .gpurent/enter enter.before; echo "GPURENT_PYTHON=$PWD/mortal/python" >> .gpurent/enter')
        told: list[int] = []
        try:
            host.put(files, "sftp", told.append)
        finally:
            host.run("mv enter.before .gpurent/enter")
        assert sum(told) == sum(file.size for file in files)
        assert [digest(host, f"sftp/{file.target}") for file in files] == [file.sha256 for file in files]
        assert "large.part" not in host.run("ls sftp").stdout


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_faster_line_gets_no_fewer_lanes(one: float, other: float) -> None:
    """At least the first, at most all."""
    slow, fast = sorted((one, other))
    assert 1 <= lanes_for(slow) <= lanes_for(fast) <= LANES


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 5))
def test_what_a_receiver_says_may_come_in_any_pieces(cuts: list[int], noise: int) -> None:
    """Lines are whole only at their end, and what a login shell says before ours is not read."""
    said = b"hello\n" * noise + b"mark\n0\nfound {}\n12\nbad 3\n700\nend\n"
    heard = Heard(b"mark")
    for cut in cuts:
        heard.feed(said[:cut])
        said = said[cut:]
    heard.feed(said)
    assert (heard.done, heard.found, heard.bad, heard.ended, heard.lines) == (700, b"{}", 3, True, 6)


@pytest.mark.cuts_links
def test_an_upload_goes_on_after_the_link_was_cut(rented: Rented, host: Host, tmp_path: Path) -> None:
    """The connection dies in the middle; the files arrive, and no byte is reported twice."""
    sizes = 1 * MIB, 5 * MIB, 0
    files = [local(tmp_path, f"f{number}", os.urandom(size)) for number, size in enumerate(sizes)]
    rented.sandbox.faults.set(Fault.DROP_SSH, value=3 * MIB)
    told: list[int] = []
    host.put(files, "cut", told.append)
    assert sum(told) == 6 * MIB
    assert [digest(host, f"cut/{file.target}") for file in files] == [file.sha256 for file in files]


@pytest.mark.cuts_links
def test_a_download_goes_on_after_the_link_was_cut(rented: Rented, host: Host, tmp_path: Path) -> None:
    """The part that came home is kept, the rest follows, and the digest is that of the whole."""
    data = os.urandom(4 * MIB)
    host.put([local(tmp_path, "source", data)], "home")
    rented.sandbox.faults.set(Fault.DROP_SSH, value=2 * MIB)
    target = tmp_path / "result.safetensors"
    host.fetch("home/source", target, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    assert target.read_bytes() == data
    assert not target.with_name("result.safetensors.part").exists()


def test_a_link_that_ends_while_much_is_asked_for_ahead_says_nothing_by_itself(
    rented: Rented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks ahead is a thread: an error of its own would be printed between the progress bars."""
    loud: list[object] = []
    monkeypatch.setattr(threading, "excepthook", loud.append)
    before = set(threading.enumerate())

    def enough(_count: int) -> None:
        host.close()
        raise TransferFailed("enough")

    with closing(rented.host()) as host:
        size = 2**31
        host.run(f"truncate -s {size} huge")
        with pytest.raises(TransferFailed, match="enough"):
            host.fetch("huge", tmp_path / "huge", sha256="0" * 64, size=size, on_bytes=enough)
        host.run("rm huge")
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert loud == []


def test_a_partial_file_of_another_run_does_not_spoil_a_download(host: Host, tmp_path: Path) -> None:
    """What lies under the partial name may be anybody's: if the whole is wrong, it is fetched from the beginning."""
    data = os.urandom(100_000)
    host.put([local(tmp_path, "source", data)], "stale")
    (tmp_path / "out.part").write_bytes(b"of yesterday" * 100)
    host.fetch("stale/source", tmp_path / "out", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("lie", ["digest", "longer", "shorter"])
def test_a_file_that_is_not_what_was_announced_never_gets_its_name(host: Host, tmp_path: Path, lie: str) -> None:
    """Digest and size are checked; what fails leaves nothing under the final name."""
    data = os.urandom(50_000)
    host.put([local(tmp_path, "source", data)], "lies")
    sha256 = "0" * 64 if lie == "digest" else hashlib.sha256(data).hexdigest()
    size = len(data) + {"digest": 0, "longer": -1, "shorter": 1}[lie]
    with pytest.raises(TransferFailed):
        host.fetch("lies/source", tmp_path / "out", sha256=sha256, size=size)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["../up", "/etc/passwd", "a/../../b", "", "a\\b", "a\0b"])
def test_a_target_outside_the_folder_is_refused(target: str) -> None:
    """Nothing that a manifest says can leave the destination."""
    with pytest.raises(TransferFailed):
        check_target(target)


@given(st.lists(st.sampled_from(["a", "..", ".", "b c", "ü"]), min_size=1, max_size=5))
def test_an_accepted_target_stays_below_its_folder(parts: list[str]) -> None:
    """Whatever is accepted resolves to a path inside."""
    path = "/".join(parts)
    try:
        check_target(path)
    except TransferFailed:
        return
    assert os.path.normpath(f"/base/{path}").startswith("/base")


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(host: Host, tmp_path: Path) -> None:
    """What was hashed is what has to arrive."""
    file = local(tmp_path, "shrunk", b"x" * 1000)
    file.source.write_bytes(b"x" * 10)
    with pytest.raises(SourceChanged):
        host.put([file], "shrink")


def test_small_files_are_written_whole_and_private(host: Host) -> None:
    """A second write replaces the first; mode 0600."""
    host.put_bytes(b"old and longer", "small/job.json")
    host.put_bytes(b"new", "small/job.json")
    assert host.read("small/job.json", 0, 100) == b"new"
    assert host.run("stat -c %a small/job.json").stdout.strip() == "600"


def test_reading_starts_where_it_is_told_and_a_missing_file_is_empty(host: Host) -> None:
    """That is how a growing file of events is followed."""
    host.put_bytes(b"0123456789", "tail/log")
    assert host.read("tail/log", 4, 3) == b"456"
    assert host.read("tail/log", 10, 3) == host.read("tail/none", 0, 3) == host.read("tail/none", -3, 3) == b""
    assert host.read("tail/log", -3, 3) == b"789" and host.read("tail/log", -30, 4) == b"0123"


def test_a_host_that_floods_a_command_is_stopped(rented: Rented) -> None:
    """More than a mebibyte of output is an attack, not an answer."""
    with closing(rented.host(patience_s=0.0)) as host, pytest.raises(HostError):
        host.run("head -c 20000000 /dev/zero | tr '\\0' x")
