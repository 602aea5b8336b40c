"""The program that takes files on a host, and what it says.

It reads orders from standard input, a line of JSON each: ``survey`` says what is there already, ``take`` is followed by
bytes of a file, ``settle`` verifies a file that came in blocks. A whole file gets its name when its digest is right.
It answers in lines: how many bytes of files are written by now (which is also its sign of life), ``found`` with the
survey, ``bad`` with the number of the order that brought something damaged, and ``end``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from gpurent.errors import BadHostData
from gpurent.untrusted.text import quoted

PROGRAM = """\
import hashlib,json,os,sys,time
os.umask(0o077)
s=sys.stdin.buffer
done=due=0
def say(*words):
    print(*words,flush=True)
def live():
    global due
    if time.monotonic()>=due:
        due=time.monotonic()+.1
        say(done)
def digest(f,left):
    h=hashlib.sha256()
    while left and (b:=f.read(min(left,1<<20))):
        h.update(b)
        left-=len(b)
        live()
    return '' if left else h.hexdigest()
def survey(block,small,sizes):
    r={}
    for p,size in sizes.items():
        whole,hints='',[]
        if os.path.isfile(p) and os.path.getsize(p)==size:
            with open(p,'rb') as f:
                whole=digest(f,size)
        elif size>small and os.path.isfile(p+'.part'):
            most=min(size,os.path.getsize(p+'.part'))
            with open(p+'.part','rb') as f:
                hints=[digest(f,min(block,size-at))[:@HINT@] for at in range(0,most,block)]
        r[p]=whole,hints
    say('found',json.dumps(r))
def take(p,at,size,total,want):
    global done
    q=p+('.%d.part'%os.getpid() if want else '.part')
    h=hashlib.sha256()
    os.makedirs(os.path.dirname(p) or '.',exist_ok=True)
    try:
        with open(os.open(q,os.O_RDWR|os.O_CREAT,0o600),'r+b') as f:
            if want or os.path.getsize(q)>total:
                f.truncate(0 if want else total)
            f.seek(at)
            while size:
                b=s.read1(min(size,1<<18))
                if not b:
                    sys.exit(3)
                f.write(b)
                if want:
                    h.update(b)
                size-=len(b)
                done+=len(b)
                live()
        if want and h.hexdigest()!=want:
            say('bad',number)
        elif want:
            os.replace(q,p)
    finally:
        if want and os.path.exists(q):
            os.unlink(q)
def settle(p,size,want):
    with open(p+'.part','rb') as f:
        right=os.path.getsize(f.fileno())==size and digest(f,size)==want
    if right:
        os.replace(p+'.part',p)
    else:
        os.unlink(p+'.part')
        say('bad',number)
try:
    for number,line in enumerate(iter(s.readline,b'')):
        what,*words=json.loads(line)
        {'survey':survey,'take':take,'settle':settle}[what](*words)
except OSError as e:
    sys.stderr.write(str(e))
    sys.exit(90)
say(done)
say('end')
"""
UNWRITTEN = 90
"""Exit status of the program when the host could not read or write a file."""
HINT = 16
"""Hexadecimal digits of a block's digest: they tell what need not be sent again. The whole file is verified after."""
PROGRAM = PROGRAM.replace("@HINT@", str(HINT))
MAX_LINE = 64 * 1024
"""Bytes of a line, where no survey is awaited."""

_LINE = re.compile(rb"(?P<done>[0-9]{1,16})|bad (?P<bad>[0-9]{1,9})|found (?P<found>\{.*\})|(?P<end>end)")


def order(what: str, *words: object) -> bytes:
    """A line for the program."""
    return json.dumps([what, *words]).encode() + b"\n"


@dataclass
class Heard:
    """What the program has said so far. It is believed only as progress, and where it speaks against a file."""

    mark: bytes = b""
    """What comes before the line with this text was said by somebody else. Empty: all is the program's."""
    most: int = MAX_LINE
    """Bytes that a line may have now."""
    done: int = 0
    """Bytes of files that it has written."""
    lines: int = 0
    """How often it gave a sign of life."""
    found: bytes | None = None
    bad: int | None = None
    """Number of an order."""
    ended: bool = False
    _rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        """Take what came. Raises BadHostData for what the program never says."""
        since = len(self._rest)
        self._rest += data
        while (end := self._rest.find(b"\n", since)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            since = 0
            if self.mark:
                self.mark = b"" if line == self.mark else self.mark
            else:
                self._read(line)
        if len(self._rest) > self.most:
            raise BadHostData("the host says more of our files than there is to say")

    def _read(self, line: bytes) -> None:
        said = _LINE.fullmatch(line)
        if said is None or self.ended or int(said["done"] or self.done) < self.done:
            words = quoted(line.decode("utf-8", "replace"))
            raise BadHostData(f"what the host says of our files cannot be read: {words}")
        self.lines += 1
        self.done = int(said["done"] or self.done)
        self.found = said["found"] or self.found
        self.ended = said["end"] is not None
        if said["bad"] is not None and self.bad is None:
            self.bad = int(said["bad"])
