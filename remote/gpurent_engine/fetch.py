"""``python -m gpurent_engine.fetch ORDER.json``: download what training needs of a base model from a hub.

Standard library only, so that it runs before any package is installed, beside the upload of the dataset. Half-precision
weights where there are some, only the parts that are used, several streams, resumed after a cut, every file compared
with the digest in the hub's listing (sha256 of large files, git's own of small ones). What already lies on the machine
with the right digest is linked, not loaded.

Exit status: 0 done; 3 the hub wants a token or a consent; 4 there is no such repository or nothing in it that is used;
5 a file does not have its digest; 1 the hub cannot be reached. The last line of standard output says why.

The routes are those of the Hugging Face hub, which mirrors serve as well: ``/api/models/REPO/tree/REV`` and
``/REPO/resolve/REV/PATH`` (huggingface.co/docs/hub/api).
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

HUB = "https://huggingface.co"
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")
SMALL = (
    "model_index.json", "scheduler/*.json", "tokenizer/*", "tokenizer_2/*", "*/config.json",
    "*/*.safetensors.index.json",
)  # fmt: skip
"""No safety checker, no pickles, no other frameworks' weights."""
SEGMENT = 64 * 2**20
"""Bytes that one stream loads at a time."""
STREAMS = 6
TRIES = 6
"""Attempts without a byte of progress."""
PAUSE_S, LONGEST_PAUSE_S, TIMEOUT_S = 1.0, 60.0, 30.0
BLOCK = 2**20
MAX_LISTING = 32 * 2**20
MAX_SMALL = 8 * 2**20
PLACES = ("/workspace/models", "/runpod-volume/models", "~/models", "models")
"""Where images and volumes keep models: a diffusers folder with the repository's name, or a cache of the hub."""
GATED, MISSING, DAMAGED, UNREACHABLE = 3, 4, 5, 1


class FetchError(Exception):
    """It cannot be loaded; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = UNREACHABLE) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class File:
    """One file of a repository, as the hub lists it."""

    path: str
    size: int
    digest: str
    """``sha256:…``, or ``git:…``, which is the sha1 of ``blob SIZE\\0`` and the content."""


@dataclass(frozen=True)
class Order:
    """What is to be loaded, and whither."""

    repository: str
    folder: Path
    revision: str = "main"
    half: bool = True
    endpoints: tuple[str, ...] = (HUB,)
    """The hub and its mirrors, in the order in which they are tried."""
    token: str = ""


def wanted(paths: Sequence[str], *, half: bool) -> list[str]:
    """Which files of a repository are used; the VAE in float32 where there is a choice: it overflows in fp16."""
    chosen = [path for path in paths if any(fnmatch.fnmatch(path, pattern) for pattern in SMALL)]
    for part in WEIGHTED:
        inside = [path for path in paths if path.startswith(f"{part}/") and path.endswith(".safetensors")]
        fp16 = [path for path in inside if ".fp16" in path]
        plain = [path for path in inside if path.count(".") == 1]
        chosen += (fp16 or plain) if half and part != "vae" else (plain or fp16)
    return list(dict.fromkeys(chosen))


class _Apart(urllib.request.HTTPRedirectHandler):
    """The token goes to the hub alone, never to where it sends us for the bytes."""

    def redirect_request(  # noqa: PLR0917  urllib calls it
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urllib.parse.urlsplit(newurl).netloc != urllib.parse.urlsplit(req.full_url).netloc:
            made.remove_header("Authorization")
        return made


_OPENER = urllib.request.build_opener(_Apart)


def _open(url: str, token: str, start: int = 0, end: int | None = None) -> Any:
    """An answer to a request for a range of bytes, ``end`` included."""
    headers = {"User-Agent": "gpurent-engine"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if end is not None:
        headers["Range"] = f"bytes={start}-{end}"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - endpoints are http(s), see ``main``
    return _OPENER.open(request, timeout=TIMEOUT_S)


def _refused(error: urllib.error.HTTPError, order: Order) -> FetchError | None:
    """What an answer means that will not change; None where asking again may help."""
    error.close()
    if error.code in (401, 403):
        why = "accept its licence at the hub and set HF_TOKEN" if not order.token else "the token has no access to it"
        return FetchError(f"{order.repository} is gated or private: {why}", GATED)
    if error.code in (404, 410):
        return FetchError(f"there is no {order.repository} at {_host(error.url or '')}", MISSING)
    return None


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _pause(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt, as the service asks where it does."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    return min(LONGEST_PAUSE_S, float(asked) if asked.isdecimal() else PAUSE_S * 2**attempt)


TROUBLE = (OSError, http.client.HTTPException)
"""Everything that a network does; ``urllib``'s errors are among them."""


def listing(order: Order) -> list[File]:
    """The files to load, with sizes and digests. Raises FetchError."""
    last: Exception = FetchError("no hub is named")
    for attempt in range(TRIES):
        for endpoint in order.endpoints:
            try:
                return _listed(endpoint, order)
            except urllib.error.HTTPError as error:  # noqa: PERF203 - one mirror's trouble is not the next one's
                last = _refused(error, order) or error
                if isinstance(last, FetchError) and endpoint == order.endpoints[-1]:
                    raise last from error
            except (*TROUBLE, ValueError) as error:
                last = error
        time.sleep(_pause(last, attempt))
    raise FetchError(f"{order.repository} cannot be listed: {last}")


def address(endpoint: str, repository: str, revision: str, path: str) -> str:
    """Where a hub gives out a file."""
    return f"{endpoint}/{repository}/resolve/{revision}/{urllib.parse.quote(path)}"


def glance(endpoint: str, order: Order, paths: Sequence[str]) -> tuple[list[File], dict[str, bytes]]:
    """What ``listing`` gives and the content of a few small files, from one hub at the first attempt.

    Raises:
        FetchError: it answers that this cannot be loaded.
        OSError, HTTPException, ValueError: there is no answer, or none that can be read.
    """
    try:
        found = _listed(endpoint, order)
        known = {file.path for file in found}
        contents = {}
        for path in known & set(paths):
            with _open(address(endpoint, order.repository, order.revision, path), order.token) as answer:
                contents[path] = answer.read(MAX_SMALL)
    except urllib.error.HTTPError as error:
        raise (_refused(error, order) or error) from error
    return found, contents


def _listed(endpoint: str, order: Order) -> list[File]:
    url: str | None = f"{endpoint}/api/models/{order.repository}/tree/{order.revision}?recursive=true"
    found: dict[str, File] = {}
    while url:
        with _open(url, order.token) as answer:
            rows = json.loads(answer.read(MAX_LISTING))
            url = _next(answer.headers.get("Link", ""))
        for row in rows:
            if row.get("type") == "file" and (file := _file(row)):
                found[file.path] = file
    chosen = [found[path] for path in wanted(list(found), half=order.half)]
    if not any(file.path.endswith(".safetensors") for file in chosen):
        raise FetchError(f"{order.repository} holds no diffusers model with .safetensors weights", MISSING)
    return chosen


def _file(row: dict[str, Any]) -> File | None:
    path, lfs = str(row.get("path", "")), row.get("lfs") or {}
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        return None
    digest = f"sha256:{lfs['oid']}" if lfs.get("oid") else f"git:{row.get('oid', '')}"
    return File(path, int(lfs.get("size") or row.get("size") or 0), digest)


def _next(link: str) -> str | None:
    """The next page of a listing."""
    address, _, relation = link.partition(">")
    return address.lstrip("<") if 'rel="next"' in relation else None


def digest_of(blocks: Iterator[bytes], file: File) -> str:
    """The digest of a content, of the kind that the listing has."""
    kind = file.digest.partition(":")[0]
    found = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    for block in blocks:
        found.update(block)
    return f"{kind}:{found.hexdigest()}"


def _blocks(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as source:
            while block := source.read(BLOCK):
                yield block


def right(path: Path, file: File) -> bool:
    """Whether a file is there and is what the listing says."""
    return path.is_file() and path.stat().st_size == file.size and digest_of(_blocks([path]), file) == file.digest


def lying_about(order: Order) -> list[Path]:
    """Folders of this machine that may hold the model."""
    name, flat = order.repository.rpartition("/")[2], order.repository.replace("/", "--")
    caches = [os.environ.get("HF_HUB_CACHE", ""), f"{os.environ.get('HF_HOME', '~/.cache/huggingface')}/hub"]
    found = [Path(place, one).expanduser() for place in PLACES for one in (order.repository, flat, name)]
    for place in (*filter(None, caches), *PLACES):
        found += sorted(Path(place).expanduser().glob(f"models--{flat}/snapshots/*"))
    return [one for one in found if (one / "model_index.json").is_file()]


@dataclass
class _Loading:
    """One file on its way, in segments of its own that outlive a cut."""

    order: Order
    file: File

    @property
    def target(self) -> Path:
        return self.order.folder / self.file.path

    def segments(self) -> list[tuple[Path, int, int]]:
        """Where each lies, its first byte and the one after its last."""
        starts = range(0, max(1, self.file.size), SEGMENT)
        return [
            (self.target.with_name(f"{self.target.name}.part{number}"), start, min(start + SEGMENT, self.file.size))
            for number, start in enumerate(starts)
        ]

    def load(self, part: Path, start: int, end: int) -> None:
        """Load one segment, from whichever endpoint gives it."""
        last: Exception = FetchError("no hub is named")
        attempt = 0
        while (have := part.stat().st_size if part.exists() else 0) < end - start:
            if attempt == TRIES:
                raise FetchError(f"{self.file.path} cannot be loaded: {last}")
            endpoint = self.order.endpoints[attempt % len(self.order.endpoints)]
            url = address(endpoint, self.order.repository, self.order.revision, self.file.path)
            try:
                with _open(url, self.order.token, start + have, end - 1) as answer:
                    if answer.status != 206:  # the whole file: what comes before is passed over
                        have = 0
                        answer.read(start)
                    self._keep(answer, part, have, end - start)
            except urllib.error.HTTPError as error:
                if refusal := _refused(error, self.order):
                    raise refusal from error
                last = error
            except TROUBLE as error:
                last = error
            moved = part.exists() and part.stat().st_size > have
            attempt = 0 if moved else attempt + 1
            if not moved:
                time.sleep(_pause(last, attempt - 1))
        if part.stat().st_size > end - start:
            os.truncate(part, end - start)

    @staticmethod
    def _keep(answer: Any, part: Path, have: int, size: int) -> None:
        with part.open("ab" if have else "wb") as sink:
            while have < size and (block := answer.read(min(BLOCK, size - have))):
                sink.write(block)
                have += len(block)

    def settle(self) -> None:
        """Give the file its name if it is what was listed; else nothing of it stays."""
        parts = [part for part, _, _ in self.segments()]
        whole = self.target.with_name(f"{self.target.name}.whole")
        with whole.open("wb") as sink:
            found = digest_of(_copied(_blocks(parts), sink), self.file)
        for part in parts:
            part.unlink()
        if found != self.file.digest:
            whole.unlink()
            raise FetchError(f"{self.file.path} does not have the digest that the hub lists", DAMAGED)
        whole.replace(self.target)


def _copied(blocks: Iterator[bytes], sink: Any) -> Iterator[bytes]:
    for block in blocks:
        sink.write(block)
        yield block


def fetch(order: Order) -> int:
    """Load everything that is missing; the number of bytes that were. Raises FetchError, OSError."""
    files = listing(order)
    about = lying_about(order)
    missing = []
    for file in files:
        target = order.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if right(target, file):
            continue
        lies = next((one / file.path for one in about if right(one / file.path, file)), None)
        if lies is not None:
            target.unlink(missing_ok=True)
            target.symlink_to(lies.resolve())
            continue
        missing.append(_Loading(order, file))
    with ThreadPoolExecutor(STREAMS) as streams:
        pieces = [(one, segment) for one in missing for segment in one.segments()]
        for done in [streams.submit(one.load, *segment) for one, segment in pieces]:
            done.result()
        for settled in [streams.submit(one.settle) for one in missing]:
            settled.result()
    return sum(one.file.size for one in missing)


def main(arguments: list[str] | None = None) -> int:
    """Read the order, whose file may hold a token and so is removed at once; load; say how it went."""
    path = Path((sys.argv[1:] if arguments is None else arguments)[0])
    given = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    order = Order(**{**given, "folder": Path(given["folder"]), "endpoints": tuple(given["endpoints"])})
    begun = time.monotonic()
    if any(not one.startswith(("https://", "http://")) for one in order.endpoints):
        print("a hub is named by an address that begins with https://")
        return UNREACHABLE
    try:
        count = fetch(order)
    except FetchError as error:
        print(error)
        return error.status
    except OSError as error:
        print(f"{order.repository} cannot be kept: {error}")
        return UNREACHABLE
    print(f"{order.repository}: {count} bytes in {time.monotonic() - begun:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
