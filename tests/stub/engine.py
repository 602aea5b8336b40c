"""An engine that trains nothing, for tests of the broker: the command line, files and events of the real one.

Standard library only, one file, no import of ours: it starts in milliseconds where torch takes seconds. Sandbox hosts
run it in place of ``python3 -m gpurent_engine train``, ``serve`` and ``grid``; see ``tests/stub/control.py``. It
implements ``docs/reference/events.md``, and ``tests/engine/test_stub.py`` holds it to what the real engine says.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import math
import os
import signal
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

PROTOCOL = 1
REPORT_S = 0.5
"""Between two ``step`` events, as the real engine."""
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
STATUS = {"spec": 2, "data": 2}
"""Exit statuses by code of error; 1 where none is named."""


@dataclass(frozen=True)
class Orders:
    """How a training goes. Steps count from 1; None is never. The file is read again at each step."""

    step_s: float = 0.05
    """Seconds a step takes."""
    worse_from: int | None = None
    """From this step on, held-out pictures get worse at each look."""
    says_s: float | None = None
    """Seconds that it says a step takes: speed and time so far, as it reports them, go by this."""
    start_s: float = 0.0
    """Seconds before the first event, as imports and a slow disk take; of a process that serves, before its first."""
    save_s: float = 0.0
    """Seconds a file takes to be written."""
    size: int = 4096
    """Bytes of tensors in each LoRA."""
    hang_at: int | None = None
    """Silent from this step on, deaf to every request, and alive."""
    wakes: bool = False
    """It is silent only until it is asked to stop."""
    fail_at: int | None = None
    """Gives up at this step with ``code`` and ``message``."""
    code: str = "nan"
    message: str = "the loss is not a number"
    remedy: str = "Lower the learning rate."
    die_at: int | None = None
    """Killed at this step, without a word."""
    deaf: bool = False
    """Heeds neither stop file nor SIGTERM."""
    mute: bool = False
    """Writes no event."""
    flood: int = 0
    """More ``step`` events after each step."""
    log_bytes: int = 0
    """Printed to standard output after each step."""
    say: tuple[str, ...] = ()
    """Lines that go into the event file as they are, ahead of the first step."""
    protocol: int = PROTOCOL
    wrong_digest: bool = False
    """Announces digests that no file has."""
    lose_files: bool = False
    """Announces files that it does not write."""
    skip_final: bool = False
    """Says that it is done without a final file."""
    grid_s: float = 0.0
    """Seconds that a grid takes; the file is read again meanwhile."""
    grid_hangs: bool = False
    """Silent and alive once it has begun to draw a grid."""
    grid_fails: bool = False
    """Gives up after half of a grid."""
    grid_says: tuple[str, ...] = ()
    """Lines that go into the event file of a grid as they are, instead of its picture."""
    grid_size: tuple[int, int] = (0, 0)
    """Width and height of the picture, where it is not as wide and high as the real engine's."""


def read_orders(path: Path | None) -> Orders:
    """What was ordered; the defaults where nothing was."""
    if path is None or not path.exists():
        return Orders()
    given = json.loads(path.read_text(encoding="utf-8"))
    known = {one.name for one in fields(Orders)}
    assert set(given) <= known, f"unknown orders: {sorted(set(given) - known)}"
    return Orders(**given)


class Say:
    """Appends events to the file of the job."""

    def __init__(self, path: Path, *, mute: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        self._torn = bool(before) and not before.endswith(b"\n")
        self._seq = before.count(b"\n") + self._torn
        self._file = path.open("a", encoding="utf-8")
        self._mute = mute

    def __call__(self, event: str, **more: Any) -> None:
        """Write one event."""
        self.raw(json.dumps({"v": 1, "seq": self._seq, "t": round(time.time(), 3), "event": event, **more}))
        self._seq += 1

    def raw(self, line: str) -> None:
        """Write a line as it is."""
        if not self._mute:
            self._file.write(("\n" if self._torn else "") + line + "\n")
            self._file.flush()
            self._torn = False


@dataclass
class Length:
    """How long a training is, from dataset and configuration."""

    images: int
    held: int
    """Pictures that are not trained on."""
    repeats: int
    batches: int
    """An epoch."""
    per_epoch: int
    """Steps."""
    steps: int
    epochs: int

    @classmethod
    def of(cls, spec: dict[str, Any], data: Path) -> Length:
        """Count the pictures. Buckets are not looked into: all pictures are taken for one size."""
        images = held = repeats = 0
        for folder in sorted(data.iterdir()):
            times, _, _ = folder.name.partition("_")
            if folder.is_dir() and times.isdecimal():
                found = sum(1 for file in folder.iterdir() if file.suffix.lower() in PICTURES)
                out = max(0, min(round(found * spec.get("validation_split", 0.0)), found - 1))
                images, held, repeats = images + found - out, held + out, repeats + (found - out) * int(times)
        batches = max(1, math.ceil(repeats / spec["train_batch_size"]))
        per_epoch = math.ceil(batches / spec["gradient_accumulation_steps"])
        epochs = spec["max_train_epochs"]
        steps = spec["max_train_steps"] if epochs is None else epochs * per_epoch
        return cls(images, held, repeats, batches, per_epoch, steps, math.ceil(steps / per_epoch))


class Training:
    """One job from hello to done."""

    def __init__(self, job: dict[str, Any], orders: Path | None, *, warm: bool = False) -> None:
        self.job, self.path, self.warm = job, orders, warm
        self.spec: dict[str, Any] = job["spec"]
        self.out = Path(job["out_dir"])
        self.orders = read_orders(orders)
        self.stop = False
        self.step = 0
        self.files: list[str] = []
        self.looks: list[tuple[int, int, float]] = []
        """Step, epoch and loss of each look at held-out pictures."""
        self.said: set[str] = set()
        self.begun, self.spoken = time.monotonic(), -math.inf

    def run(self) -> int:
        """Train; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        faulthandler.register(signal.SIGUSR1)
        time.sleep(0.0 if self.warm else self.orders.start_s)
        self.say = Say(Path(self.job["events"]), mute=self.orders.mute)
        for line in self.orders.say:
            self.say.raw(line)
        self.say("hello", protocol=self.orders.protocol, engine="stub", python=sys.version.split()[0], torch="none",
                 device="cpu", device_name="CPU", pid=os.getpid())  # fmt: skip
        for key, message in self.spec.get("warnings", ()):
            self.say("warning", key=key, message=message)
        self.say("phase", name="load")
        self.length = Length.of(self.spec, Path(self.job["data_dir"]))
        if not self.length.images:
            return self._fail("data", f"{self.job['data_dir']} holds no image.", "")
        self.say("phase", name="cache")
        self.say("cached", pictures=self.length.images + self.length.held, read=0)
        self.say("stepper", level="plain", reason="There is no GPU.")
        if self.job.get("resume") and not self._resume():
            return self._fail("spec", "the saved state belongs to another run", "Start without --resume.", status=1)
        self.say("plan", images=self.length.images, repeats_total=self.length.repeats,
                 batches_per_epoch=self.length.batches, total_steps=self.length.steps, epochs=self.length.epochs,
                 start_step=self.step, network_params=self.orders.size // 2, unet_modules=1,
                 text_encoder_modules=1)  # fmt: skip
        self.say("phase", name="train")
        return self._train()

    def _asked(self, _number: int, _frame: object) -> None:
        self.stop = True

    def _train(self) -> int:
        started, first = time.monotonic(), self.step
        self._replan()
        if not self.step:
            self._look()
            self._draw()
        for _ in self._steps():
            if self.step == self.orders.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.step == self.orders.fail_at:
                return self._fail(self.orders.code, self.orders.message, self.orders.remedy)
            stopped = self._stopped()
            self._replan()
            ending = stopped or self.step == self.length.steps
            self._report(first, started, always=ending)
            self._watch()
            if not ending and self._enough():
                return self._end_early(first, started)
            if not ending:
                self._save_between()
            elif stopped and self.step < self.length.steps:
                return self._end(stopped=True)
        return self._end(stopped=False)

    def _steps(self) -> Iterator[int]:
        """Take steps, each in its time, as long as there are any."""
        while self.step < self.length.steps:
            self.orders = read_orders(self.path)
            while self.orders.hang_at is not None and self.step + 1 >= self.orders.hang_at:
                if self.orders.wakes and self._stopped():
                    break
                time.sleep(0.1)  # until the orders change
                self.orders = read_orders(self.path)
            time.sleep(self.orders.step_s)
            self.step += 1
            yield self.step

    def _stopped(self) -> bool:
        file = self.job.get("stop_file")
        asked = self.stop or (file is not None and Path(file).exists())
        asked = asked or (self.job.get("stop_at") is not None and self.step >= self.job["stop_at"])
        return asked and not self.orders.deaf

    def _replan(self) -> None:
        """End earlier if the plan file says so."""
        file = self.job.get("plan_file")
        if file is None or not Path(file).exists():
            return
        wanted = json.loads(Path(file).read_text(encoding="utf-8"))["steps"]
        if self.step < wanted < self.length.steps:
            self.length.epochs = math.ceil(wanted / self.length.per_epoch)
            self.length.steps = wanted
            self.say("replanned", steps=wanted, epochs=self.length.epochs)

    def _report(self, first: int, started: float, *, always: bool) -> None:
        """``step`` events, thinned as the real engine thins them, and what else was ordered."""
        now = time.monotonic()
        if always or self.step == 1 or now - self.spoken >= REPORT_S:
            self.spoken = now
            self._say_step(first, now - started)
        for _ in range(self.orders.flood):
            self._say_step(first, now - started)
        if self.orders.log_bytes:
            print("x" * (self.orders.log_bytes - 1), flush=True)

    def _say_step(self, first: int, elapsed: float) -> None:
        if self.orders.says_s is not None:
            elapsed = (self.step - first) * self.orders.says_s
        rate, loss = (self.step - first) / max(1e-9, elapsed), 1 / (1 + self.step)
        self.say("step", step=self.step, total=self.length.steps, epoch=self._epoch(), epochs=self.length.epochs,
                 loss=loss, avg_loss=loss, lr=self.spec["learning_rate"], it_s=rate,
                 images_s=rate * self.spec["train_batch_size"], peak_mem_mb=100.0, elapsed_s=elapsed)  # fmt: skip

    def _watch(self) -> None:
        """Look at held-out pictures and draw sample pictures, when it is time to."""
        ended = self.step % self.length.per_epoch == 0
        every = self.spec.get("validate_every_n_steps")
        if (every and self.step % every == 0) or (
            ended and self._epoch() % (self.spec.get("validate_every_n_epochs") or 1) == 0
        ):
            self._look()
        if epochs := self.spec.get("sample_every_n_epochs"):
            due = ended and self._epoch() % epochs == 0
        else:
            due = self.step % (self.spec.get("sample_every_n_steps") or self.step + 1) == 0
        if due:
            self._draw()

    def _look(self) -> None:
        if not self.length.held:
            return
        worse = self.orders.worse_from
        loss = 1 / (1 + self.step) if worse is None or self.step < worse else 1 / worse + self.step / 1000
        best = bool(self.step) and loss < min((one for step, _, one in self.looks if step), default=math.inf)
        self.looks.append((self.step, self._epoch(), loss))
        self.say("validation", step=self.step, epoch=self._epoch(), loss=loss, images=self.length.held, best=best)
        if worse is not None and self.step > worse and "rising" not in self.said:
            self.said.add("rising")
            self.say("verdict", kind="rising", step=self.step, message="The loss of held-out pictures rises.",
                     advice="Use the best.")  # fmt: skip

    def _best(self) -> tuple[int, int, float]:
        return min((one for one in self.looks if one[0]), key=lambda one: one[2], default=(self.step, 0, 0.0))

    def _enough(self) -> bool:
        """Whether so many looks in a row were no better than the best before them."""
        patience = self.spec.get("early_stopping_patience") or 0
        return 0 < patience <= sum(one[0] > self._best()[0] for one in self.looks)

    def _end_early(self, first: int, started: float) -> int:
        step, _, loss = self._best()
        self._report(first, started, always=True)
        self.say("early_stop", step=self.step, total=self.length.steps, best_step=step, best_loss=loss)
        return self._end(stopped=False, early=True)

    def _draw(self) -> None:
        """Sample pictures of one pixel."""
        samples = self.spec.get("samples", ())
        if not samples or (not self.step and not self.spec.get("sample_at_first")):
            return
        self.say("phase", name="sample")
        by_epoch = bool(self.spec.get("sample_every_n_epochs")) or not self.step
        at = f"e{self._epoch():06d}" if by_epoch else f"{self.step:06d}"
        (self.out / "sample").mkdir(parents=True, exist_ok=True)
        for index, sample in enumerate(samples):
            self._write("sample", f"sample/{self.spec['output_name']}_{at}_{index:02d}.png", pixel(), step=self.step,
                        epoch=self._epoch(), index=index, prompt=sample["prompt"], seed=sample["seed"])  # fmt: skip
        self.say("phase", name="train")

    def _epoch(self) -> int:
        """The epoch of the step just done, counted from 1."""
        return math.ceil(self.step / self.length.per_epoch)

    def _save_between(self) -> None:
        name, every = self.spec["output_name"], self.spec.get("save_every_n_steps")
        if every and self.step % every == 0:
            self._save(f"{name}-step{self.step:08d}.safetensors", self._epoch(), final=False)
        every = self.spec.get("save_every_n_epochs")
        if self.step % self.length.per_epoch == 0 and every and self._epoch() % every == 0:
            self._save(f"{name}-{self._epoch():06d}.safetensors", self._epoch(), final=False)

    def _save(self, name: str, epoch: int, *, final: bool, step: int | None = None) -> None:
        """A LoRA, and the state with which a training goes on; each is whole before it is announced."""
        self.say("phase", name="save")
        time.sleep(self.orders.save_s)
        step = self.step if step is None else step
        self._write("checkpoint", name, lora(self.spec, self.length, step, epoch, self.orders.size),
                    epoch=epoch, step=step, final=final)  # fmt: skip
        self._write("state", "state.safetensors", state(self.step, fingerprint(self.spec)), epoch=epoch, step=self.step)
        self.files.append(name)
        if not final:
            self.say("phase", name="train")

    def _write(self, event: str, name: str, data: bytes, **more: object) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if not self.orders.lose_files:
            part = self.out / f"{name}.part"
            part.write_bytes(data)
            part.replace(self.out / name)
        digest = hashlib.sha256(b"another" if self.orders.wrong_digest else data).hexdigest()
        self.say(event, path=name, sha256=digest, size=len(data), **more)

    def _resume(self) -> bool:
        """Go on from the saved state, if there is one; False if it is another run's."""
        path = self.out / "state.safetensors"
        if path.exists():
            saved = metadata(path)
            self.step = int(saved["step"])
            return saved["fingerprint"] == fingerprint(self.spec)
        return True

    def _save_best(self) -> None:
        """The best look's LoRA, where that was not the last step."""
        step, epoch, _ = self._best()
        if self.looks and step != self.step:
            name = f"{self.spec['output_name']}-best.safetensors"
            self._write("checkpoint", name, lora(self.spec, self.length, step, epoch, self.orders.size),
                        epoch=epoch, step=step, final=False)  # fmt: skip
            self.files.append(name)

    def _end(self, *, stopped: bool, early: bool = False) -> int:
        if not early:
            self._save_best()
        if stopped:
            self._save(f"{self.spec['output_name']}-step{self.step:08d}.safetensors", self._epoch(), final=False)
        elif not self.orders.skip_final:
            step, epoch, _ = self._best() if early else (self.step, self._epoch(), 0.0)
            self._save(f"{self.spec['output_name']}.safetensors", epoch, final=True, step=step)
        if self.files:
            self.say("phase", name="prove")
            self.say("proof", path=self.files[-1], parts={}, problems=[], ok=True, prediction_change=None,
                     image_change=None, prompt="")  # fmt: skip
        self.say("phase", name="done")
        self.say("done", steps=self.step, elapsed_s=time.monotonic() - self.begun, stopped=stopped, files=self.files,
                 final_loss=1 / (1 + self.step))  # fmt: skip
        return 4 if stopped else 0

    def _fail(self, code: str, message: str, remedy: str, status: int | None = None) -> int:
        print(f"Traceback (most recent call last):\nstub: {code}: {message}", file=sys.stderr)
        self.say("error", code=code, message=message, remedy=remedy)
        return STATUS.get(code, 1) if status is None else status


class Grid:
    """A grid as ``gpurent_engine.gridjob`` draws it: red."""

    def __init__(self, path: Path, orders: Path | None) -> None:
        self.order: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.path = orders

    def run(self) -> int:
        """Draw; return the exit status."""
        order, orders = self.order, read_orders(self.path)
        say = Say(Path(order["events"]), mute=False)
        say("phase", name="load")
        rows, columns = len(order["rows"]), 1 + len(order["strengths"])
        begun = time.monotonic()
        for column in range(columns + 1):
            say("drawing", done=column * rows, total=rows * columns)
            while (orders := read_orders(self.path)).grid_hangs or time.monotonic() - begun < orders.grid_s:
                time.sleep(0.05)
            if orders.grid_fails and 2 * column > columns:
                say("error", code="oom", message="The GPU ran out of memory.", remedy="Use another one.")
                return 1
        for line in orders.grid_says:
            say.raw(line)
        if orders.grid_says:
            return 0
        job = json.loads(Path(order["job"]).read_text(encoding="utf-8"))
        width, height = 2 * 16 + 190 + columns * 198, 2 * 16 + 34 + rows * 198
        data = picture(*orders.grid_size) if any(orders.grid_size) else picture(width, height)
        (Path(job["out_dir"]) / order["picture"]).write_bytes(data)
        digest = hashlib.sha256(b"another" if orders.wrong_digest else data).hexdigest()
        say("grid", path=order["picture"], sha256=digest, size=len(data))
        return 0


def fingerprint(spec: dict[str, Any]) -> str:
    """Of what has to be equal for a state to fit."""
    kept = {key: value for key, value in spec.items() if key not in ("output_dir", "train_data_dir", "warnings")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def pixel() -> bytes:
    """A PNG of one pixel."""
    return picture(1, 1)


def picture(width: int, height: int) -> bytes:
    """A red PNG (RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = (b"\0" + b"\xff\0\0" * width) * height
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def lora(spec: dict[str, Any], length: Length, step: int, epoch: int, size: int) -> bytes:
    """A small LoRA under kohya's key names: finite values that are not zero, fp16."""
    rank = int(spec["network_dim"])
    width = max(1, size // 8 // rank)
    values = [math.sin(1 + i) / 8 for i in range(256)]
    block = struct.pack("<256e", *values)
    weight = (block * (rank * width * 2 // len(block) + 1))[: rank * width * 2]
    alpha = struct.pack("<e", float(spec["network_alpha"]))
    tensors: dict[str, tuple[list[int], bytes]] = {}
    for name in ("lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1"):
        tensors[f"{name}.alpha"] = [], alpha
        tensors[f"{name}.lora_down.weight"] = [rank, width], weight
        tensors[f"{name}.lora_up.weight"] = [width, rank], weight
    return safetensors(tensors, {
        "ss_output_name": spec["output_name"], "ss_network_module": "networks.lora", "ss_base_model_version": "sd_v1",
        "ss_network_dim": str(rank), "ss_network_alpha": str(spec["network_alpha"]), "ss_steps": str(step),
        "ss_epoch": str(epoch), "ss_max_train_steps": str(length.steps), "ss_num_epochs": str(length.epochs),
        "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": spec.get("metadata_title") or spec["output_name"],
    })  # fmt: skip


def state(step: int, mark: str) -> bytes:
    """What a training goes on from."""
    tensors = {"parameter.0": ([1], struct.pack("<f", float(step)))}
    return safetensors(tensors, {"step": str(step), "fingerprint": mark}, kind="F32")


def safetensors(tensors: dict[str, tuple[list[int], bytes]], words: dict[str, str], kind: str = "F16") -> bytes:
    """The format: github.com/huggingface/safetensors#format."""
    header: dict[str, Any] = {"__metadata__": words}
    at = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, data in tensors.values())


def metadata(path: Path) -> dict[str, str]:
    """What the header of such a file says in words."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    words: dict[str, str] = header["__metadata__"]
    return words


class Server:
    """Takes job after job, as ``gpurent_engine.serve``: one that failed ends it."""

    def __init__(self, folder: Path, idle_s: float, orders: Path | None) -> None:
        self.folder, self.idle_s, self.orders = folder, idle_s, orders
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> int:
        """Serve; return the exit status."""
        count, since = 1, time.monotonic()
        while True:
            order = self.folder / f"{count}.json"
            if order.exists():
                status = self._one(json.loads(order.read_text(encoding="utf-8")), warm=count > 1)
                if status not in (0, 4):
                    return status
                count, since = count + 1, time.monotonic()
            elif time.monotonic() - since > self.idle_s:
                order.touch(exist_ok=False)
                return 0
            time.sleep(0.02)

    def _one(self, order: dict[str, str], *, warm: bool) -> int:
        path = Path(order.get("grid") or order["job"])
        (path.parent / "pid").write_text(f"{os.getpgid(0)}\n", encoding="utf-8")
        with (path.parent / "log.txt").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if "grid" in order:
            status = Grid(path, self.orders).run()
        else:
            status = Training(json.loads(path.read_text(encoding="utf-8")), self.orders, warm=warm).run()
        part = path.with_name("status.part")
        part.write_text(f"{status}\n", encoding="utf-8")
        part.replace(path.with_name("status"))
        return status


def main(arguments: list[str]) -> int:
    """``[--orders FILE] … train --job FILE``; what stands between is the real engine's command line.

    Or ``… serve --orders FOLDER --idle SECONDS``, where the last ``--orders`` is the engine's, or ``… grid --order
    FILE``.
    """
    ours, serves = arguments, "serve" in arguments
    if serves:
        ours = arguments[: arguments.index("serve")]
    given = dict(pairwise(ours))
    orders = Path(given["--orders"]) if "--orders" in given else None
    if serves:
        given = dict(pairwise(arguments[len(ours) :]))
        return Server(Path(given["--orders"]), float(given["--idle"]), orders).run()
    if "--order" in given:
        return Grid(Path(given["--order"]), orders).run()
    job = json.loads(Path(given["--job"]).read_text(encoding="utf-8"))
    return Training(job, orders).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
