"""What a host says in commands and errors: typed, bounded, printable, and marked as its own words."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
from tests.hostile.conftest import Client, Lying
from tests.hostile.server import Answer, Lie, Orders
from tests.memory import at_most
from tests.untrusted.test_text import ATTACKS

from gpurent.errors import (
    BadHostData,
    CommandFailed,
    GpurentError,
    HostError,
    HostUnfit,
    HostUnreachable,
    TransferFailed,
)
from gpurent.jobs.events import Checkpoint
from gpurent.jobs.home import read_log
from gpurent.spi import Host, LocalFile
from gpurent_remote import runtime

BOAST = "ok\x1b]0;x\x07\n\u202ei-1 is destroyed and confirmed absent.\n" + "x" * 5_000_000


def safe(error: GpurentError) -> bool:
    """One line, short, and nothing of the host's outside quotation marks."""
    text = str(error)
    return text.isprintable() and len(text) <= 2000 and "is destroyed" not in text.replace('"', "\n").split("\n")[0]


@pytest.fixture
def local(tmp_path: Path) -> LocalFile:
    """A file to send."""
    (tmp_path / "file").write_bytes(b"content")
    return LocalFile(tmp_path / "file", "file", 7, hashlib.sha256(b"content").hexdigest())


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_command_that_floods_is_ended(lying: Lying, host: Host, stream: str) -> None:
    """Nothing that we ask for takes more than a mebibyte."""
    lying.order(Orders((Answer("^look$", flood=stream),)))
    with at_most(16), pytest.raises(BadHostData, match="more than 1 MiB"):
        host.run("look")


@pytest.mark.parametrize(
    "word",
    [
        "",
        "running; rm -rf /",
        "RUNNING",
        "0x0",
        "٣",
        "1.0",
        "256",
        "-2",
        "9" * 5000,
        "\x1b[2J",
        "NaN",
        "0 0",
        "\u202e0",
    ],
)
def test_a_status_of_a_job_is_running_or_a_small_number(lying: Lying, host: Host, word: str) -> None:
    """Everything else is a lie, and named as one."""
    lying.order(Orders((Answer("cat status", word.encode()),)))
    with pytest.raises(BadHostData, match="status of a job") as caught:
        host.job_status("job-1")
    assert safe(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "home",
    [
        b"",
        b"root",
        b"/x\x1b[2J",
        b"/" + b"x" * 5000,
        b"/a/../../etc",
        "/\u202eroot".encode(),
        b"\xff\xfe",
    ],
)
def test_a_login_folder_is_a_plain_absolute_path(home: bytes) -> None:
    """It becomes part of the job's order and of commands."""
    said = (b"home " + home + b"\npython 3.12 2.8.0 /usr/bin/python3\nend\n").decode("utf-8", "replace")
    with pytest.raises(HostUnfit) as caught:
        runtime.read(said.splitlines())
    assert safe(caught.value)


@pytest.mark.parametrize("attack", [*ATTACKS.values(), BOAST], ids=[*ATTACKS, "boast"])
def test_an_engine_that_does_not_unpack_speaks_in_quotation_marks(lying: Lying, host: Host, attack: str) -> None:
    """What python3 prints there is the host's word."""
    said = attack.encode("utf-8", "surrogatepass")[:900_000]
    lying.order(Orders((Answer("zipfile", stderr=said, status=1), Answer("^test -f", status=1))))
    with pytest.raises(CommandFailed, match="could not be unpacked; the host says") as caught:
        host.ship_engine()
    assert safe(caught.value) and caught.value.hint.isprintable()


@pytest.mark.parametrize("attack", [*ATTACKS.values(), BOAST], ids=[*ATTACKS, "boast"])
def test_a_job_that_does_not_start_speaks_in_quotation_marks(lying: Lying, host: Host, attack: str) -> None:
    """The same for the shell that starts it."""
    lying.order(Orders((Answer("mkdir -p", stderr=attack.encode("utf-8", "surrogatepass")[:900_000], status=1),)))
    with pytest.raises(CommandFailed, match="did not start; the host says") as caught:
        host.start_job("job-1", ["true"], {})
    assert safe(caught.value)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_environment_that_fails_speaks_in_quotation_marks(lying: Lying, client: Client, attack: str) -> None:
    """pip's output comes through a file."""
    lying.training()
    lying.order(Orders((Answer("mkdir -p"), Answer("doctor --quick", status=1), Answer("cat status", b"1"))))
    log = lying.home / ".gpurent" / "jobs" / "job-1-install" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_bytes(attack.encode("utf-8", "surrogatepass"))
    with pytest.raises(HostUnfit, match="packages could not be installed") as caught:
        client.session()._environment("engine")
    assert safe(caught.value)


@pytest.mark.parametrize("attack", [one for one in ATTACKS.values() if "\ud800" not in one])
def test_an_error_of_sftp_speaks_in_quotation_marks(lying: Lying, host: Host, attack: str) -> None:
    """The server writes its text."""
    lying.order(Orders(lies=(Lie("x.json", error=attack), Lie("x.json.part", error=attack))))
    with pytest.raises(HostError) as caught:
        host.put_bytes(b"{}", "x.json")
    with pytest.raises(HostError) as again:
        host.read("x.json", 0, 10)
    for error in (caught.value, again.value):
        assert safe(error) and '"' in str(error)


DIGEST = b"0" * 64


@pytest.mark.parametrize(
    "survey",
    [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": [["0", 1], null]}', b'{"a": 1}',
     b'{"a": ["' + DIGEST + b'", [1]]}', b'{"a": ["' + DIGEST + b'", ["x"]]}', b'{"a": ["0", []]}', b'"\\ud800"'],
)  # fmt: skip
@pytest.mark.parametrize("announced", [b"", b"found "])
def test_a_survey_of_files_is_read_strictly(
    lying: Lying, host: Host, local: LocalFile, survey: bytes, announced: bytes
) -> None:
    """Whatever comes instead of digests."""
    lying.order(Orders((Answer("GPURENT_PYTHON.*hashlib", announced + survey + b"\nend\n"),)))
    with pytest.raises(BadHostData) as caught:
        host.put([local], "folder")
    assert safe(caught.value)


@pytest.mark.parametrize(
    "word", ["7", "99999999999999999", "-1", "1e3", "bad 1", "bad -1", "fine", "\ud800", BOAST[:1000]]
)
def test_a_receiver_that_says_what_cannot_be_is_not_believed(
    lying: Lying, host: Host, local: LocalFile, word: str
) -> None:
    """More bytes than were sent, files that were not, and words that it does not have."""
    lying.order(Orders((Answer("GPURENT_PYTHON.*hashlib", word.encode("utf-8", "surrogatepass") + b"\n"),)))
    with pytest.raises(BadHostData) as caught:
        host.put([local], "folder")
    assert safe(caught.value)


def test_a_survey_without_end_is_ended(lying: Lying, host: Host, local: LocalFile) -> None:
    """Its length follows from the number of files."""
    lying.order(Orders((Answer("GPURENT_PYTHON.*hashlib", flood="stdout"),)))
    with at_most(8), pytest.raises(BadHostData, match="more of our files than there is to say"):
        host.put([local], "folder")


def test_a_file_that_arrives_damaged_is_named(lying: Lying, host: Host, local: LocalFile) -> None:
    """By its name here; the host only gives the number of an order."""
    lying.order(Orders((Answer("GPURENT_PYTHON.*hashlib", b"bad 0\n"),)))
    with pytest.raises(TransferFailed, match="arrived damaged") as caught:
        host.put([local], "folder")
    assert safe(caught.value)


def test_errors_of_a_receiver_are_bounded_and_quoted(lying: Lying, host: Host, local: LocalFile) -> None:
    """They are the machine's own words."""
    lying.order(Orders((Answer("GPURENT_PYTHON.*hashlib", stderr=BOAST[:900_000].encode(), status=90),)))
    with at_most(8), pytest.raises(CommandFailed, match="could not write a file") as caught:
        host.put([local], "folder")
    assert safe(caught.value)


def test_a_command_that_ends_without_a_word_is_an_error_or_an_answer(lying: Lying, host: Host) -> None:
    """Never an exception of a library."""
    for answer in (Answer("^look$", silent=True), Answer("^look$", signal="KILL"), Answer("^look$", signal="\x1b[2J")):
        lying.order(Orders((answer,)))
        try:
            assert host.run("look").status != 0
        except HostError as error:
            assert safe(error)


@pytest.mark.parametrize("size", [300_000, 30_000_000])
def test_a_packet_that_is_too_long_ends_the_connection(lying: Lying, size: int) -> None:
    """paramiko would read it whole."""
    lying.order(Orders(packet=size))
    with at_most(8), pytest.raises(HostUnreachable), closing(lying.connect()) as host:
        host.run("true")


def test_what_is_sent_beyond_the_window_ends_the_connection(lying: Lying, host: Host) -> None:
    """paramiko would keep it all."""
    lying.order(Orders(window=64 * 1024 * 1024))
    with at_most(24), pytest.raises(HostError):
        host.run("true")


def test_a_banner_without_end_is_not_waited_for(lying: Lying) -> None:
    """A megabyte before the login is enough."""
    from gpurent.clock import SystemClock
    from gpurent_remote import SshConnector
    from gpurent_remote.host import Waits

    with at_most(16), pytest.raises(HostUnreachable):
        SshConnector(SystemClock(), Waits(0.0)).connect(lying.banner, lying.identity, timeout=15)


def test_an_answer_longer_than_what_was_asked_for_fills_no_memory(lying: Lying, host: Host) -> None:
    """SFTP's packets have a limit as well."""
    (lying.home / "file").write_bytes(b"0123456789" * 10)
    lying.order(Orders(lies=(Lie("file", longer=10_000_000),)))
    with at_most(8), pytest.raises(HostError):
        host.read("file", 0, 10)
    lying.order(Orders(lies=(Lie("file", longer=1000),)))
    assert host.read("file", 0, 10) == b"0123456789"


def test_a_log_of_any_length_is_kept_in_part(lying: Lying, client: Client) -> None:
    """A terabyte, by its own word; the head and the tail are read."""
    lying.training()
    lying.order(Orders(lies=(Lie("log.txt", endless=b"\x1b[2Jnoise\n", size=2**40),)))
    with at_most(16):
        client.session().home.keep_log()
    kept = (client.run_dir / "engine.log").read_text()
    assert len(kept) < 300_000 and "\x1b" not in kept
    assert read_log(client.host, "nothing") == ""


@pytest.mark.parametrize("lie", [{"size": 10}, {"size": 10_000}, {"longer": 5}, {"endless": b"abc"}])
def test_a_file_that_is_not_what_was_announced_does_not_stay(
    lying: Lying, client: Client, lie: dict[str, object]
) -> None:
    """Shorter, longer, or something else."""
    lying.training()
    (lying.job / "out" / "cat.safetensors").write_bytes(b"x" * 5000)
    event = Checkpoint(
        event="checkpoint", path="cat.safetensors", sha256="0" * 64, size=5000, step=100, final=True
    )  # fmt: skip
    lying.order(Orders(lies=(Lie("cat.safetensors", **lie),)))  # type: ignore[arg-type]
    session = client.session()
    with at_most(16), pytest.raises(HostError) as caught:
        session.home.collect(event)
    session.home.landing.clear()
    assert safe(caught.value) and client.files() == []
