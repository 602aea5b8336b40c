"""What a host may still send in a session: each file of the plan once, and as many events as a training has."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpurent.errors import BadHostData
from gpurent.expected import Expected
from gpurent.jobs.events import Checkpoint, SamplePicture
from gpurent.untrusted.text import quoted


@dataclass
class Allowance:
    """Counts what was announced, and refuses what the plan does not foresee."""

    expected: Expected
    _planned: frozenset[str] = field(init=False)
    _most_events: int = field(init=False)
    _events: int = field(default=0, init=False)
    _digests: dict[str, str] = field(default_factory=dict, init=False)
    _drawn: dict[str, str] = field(default_factory=dict, init=False)
    _stopped: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._planned = self.expected.planned
        self._most_events = self.expected.events

    def count(self, lines: int) -> None:
        """Take lines of events in.

        Raises:
            BadHostData: there were more than the training can have.
        """
        self._events += lines
        if self._events > self._most_events:
            raise BadHostData(f"the host sent more than the {self._most_events} events that this training can have")

    def wants(self, checkpoint: Checkpoint) -> bool:
        """Whether a file is to be fetched; False for one that is home already.

        Raises:
            BadHostData: the plan foresees no such file, or not of this size or at this step.
        """
        name, known = checkpoint.path, self._digests.get(checkpoint.path)
        if known == checkpoint.sha256:
            return False
        stopped = name == self.expected.stopped_at(checkpoint.step) and not self._stopped
        if known is not None and not stopped:
            raise BadHostData(f"the host sent {name} twice, with different contents")
        if name not in self._planned and not stopped:
            raise BadHostData(f"the host offers {quoted(name, 80)}, a file that this training does not write")
        if checkpoint.step > self.expected.steps or checkpoint.final != (name == self.expected.final):
            raise BadHostData(f"the host offers {name} for step {checkpoint.step}, which is not the plan")
        if checkpoint.size > self.expected.file_bytes:
            most = self.expected.file_bytes
            raise BadHostData(f"the host offers {name} of {checkpoint.size} bytes; such a LoRA has {most} at most")
        return True

    def draws(self, picture: SamplePicture) -> bool:
        """Whether a sample picture is to be fetched; False for one that is home already.

        Raises:
            BadHostData: the plan foresees no such picture, or not of this size.
        """
        name, known = picture.path, self._drawn.get(picture.path)
        if known is not None:  # a run that was resumed on the machine may draw it again, with other bits
            return False
        if name not in self.expected.samples:
            raise BadHostData(f"the host offers {quoted(name, 80)}, a picture that this training does not draw")
        if picture.size > self.expected.sample_bytes:
            most = self.expected.sample_bytes
            raise BadHostData(f"the host offers {name} of {picture.size} bytes; such a picture has {most} at most")
        return True

    def drawn(self, picture: SamplePicture) -> None:
        """A sample picture is home."""
        self._drawn[picture.path] = picture.sha256

    def brought(self, checkpoint: Checkpoint) -> None:
        """A file is home. A stopped training ends with one that no plan could name, or that was saved before."""
        self._stopped = self._stopped or checkpoint.path not in self._planned or checkpoint.path in self._digests
        self._digests[checkpoint.path] = checkpoint.sha256

    def complete(self, *, stopped: bool) -> bool:
        """Whether the file that ends a training is home: the final one, or that of an ordered stop."""
        return self.expected.final in self._digests or (stopped and bool(self._digests))
