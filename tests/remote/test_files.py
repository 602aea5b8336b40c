"""Files both ways: whole and verified, or absent."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.remote.conftest import Rented

from gpurent.errors import HostError, SourceChanged, TransferFailed
from gpurent.sandbox.faults import Fault
from gpurent.spi import Host, LocalFile
from gpurent_remote.files import check_target

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


@pytest.mark.parametrize("left", ["half of it", "something else", "more than it"])
def test_a_partial_file_is_continued_only_if_it_is_ours(host: Host, tmp_path: Path, left: str) -> None:
    """What an earlier attempt left is used if its digest is that of our beginning, and replaced otherwise."""
    data = os.urandom(400_000)
    before = {"half of it": data[:200_000], "something else": b"x" * 200_000, "more than it": data + b"x"}[left]
    host.put_bytes(before, f"parts/{left.replace(' ', '-')}.part")
    file = local(tmp_path, left.replace(" ", "-"), data)
    host.put([file], "parts")
    assert digest(host, f"parts/{file.target}") == file.sha256


@pytest.mark.cuts_links
def test_an_upload_goes_on_after_the_link_was_cut(rented: Rented, host: Host, tmp_path: Path) -> None:
    """The connection dies in the middle; the files arrive, and no byte is reported twice."""
    files = [local(tmp_path, f"f{number}", os.urandom(2 * MIB)) for number in range(3)]
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
