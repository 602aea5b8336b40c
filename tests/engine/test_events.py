"""The event channel: JSON lines and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path

from gpurent_engine.events import EventWriter


def test_each_event_is_one_line_of_json(tmp_path: Path) -> None:
    """Lines carry version, running number, time, kind and fields; numbers that JSON lacks become null."""
    with EventWriter(tmp_path / "deep" / "events.jsonl", now=lambda: 12.0) as out:
        out.emit("phase", name="load\nnot a new line")
        out.emit("step", loss=math.nan, lr=math.inf, values=[1.0, -math.inf])
    first, second = [json.loads(line) for line in (tmp_path / "deep" / "events.jsonl").read_text().splitlines()]
    assert first == {"v": 1, "seq": 0, "t": 12.0, "event": "phase", "name": "load\nnot a new line"}
    assert (second["seq"], second["loss"], second["lr"], second["values"]) == (1, None, None, [1.0, None])


def test_a_line_is_on_disk_before_emit_returns(tmp_path: Path) -> None:
    """A reader sees each event at once, not when the file is closed."""
    path = tmp_path / "events.jsonl"
    with EventWriter(path) as out:
        out.emit("phase", name="load")
        assert path.read_text().count("\n") == 1


def test_step_reports_are_thinned_but_first_and_last_are_said(tmp_path: Path) -> None:
    """At most one report in half a second, whatever the speed, and always the first and the last."""
    clock = [0.0]
    with EventWriter(tmp_path / "e", monotonic=lambda: clock[0]) as out:
        said = []
        for step in range(1, 101):
            clock[0] += 0.1
            if out.step_due(step, 100):
                said.append(step)
    assert said[0] == 1 and said[-1] == 100 and 15 <= len(said) <= 22


def test_a_torn_line_of_a_killed_engine_spoils_no_other(tmp_path: Path) -> None:
    """A resumed engine starts on a line of its own and counts on."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"v": 1, "seq": 0}\n{"v": 1, "se')
    with EventWriter(path) as out:
        out.emit("phase", name="load")
    assert json.loads(path.read_text().splitlines()[-1])["seq"] == 2
