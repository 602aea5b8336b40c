"""What is wrong is said before anything is rented: one message for each mistake, with its place and its remedy."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.world import Terminal
from tests.session.world import make_job

pytestmark = pytest.mark.usefixtures("nothing_rented")

PICTURES = Path("training_data") / "2_colours"
CONFIG = "training_config.toml"


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / CONFIG).read_text(encoding="utf-8")
        assert old in text
        (folder / CONFIG).write_text(text.replace(old, new), encoding="utf-8")

    return change


def own_settings(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "gpurent.toml").write_text(text, encoding="utf-8")

    return change


def no_dataset(folder: Path) -> None:
    shutil.rmtree(folder / "training_data")


def no_concept(folder: Path) -> None:
    shutil.rmtree(folder / PICTURES)


def no_image(folder: Path) -> None:
    shutil.rmtree(folder / PICTURES)
    (folder / PICTURES).mkdir()


def no_picture(folder: Path) -> None:
    (folder / PICTURES / "green.png").write_bytes(b"this was a picture once")


def damaged_picture(folder: Path) -> None:
    whole = (folder / PICTURES / "gold.png").read_bytes()
    (folder / PICTURES / "gold.png").write_bytes(whole[: len(whole) // 2])


def no_caption(folder: Path) -> None:
    (folder / PICTURES / "red.txt").unlink()
    (folder / PICTURES).rename(folder / "training_data" / "2_")


def empty_caption(folder: Path) -> None:
    (folder / PICTURES / "blue.txt").write_text("", encoding="utf-8")


@pytest.mark.parametrize(
    ("mistake", "message", "hint"),
    [
        (no_dataset, "No dataset at {}/training_data.", "Put images with captions into training_data/10_my_concept/"),
        (no_concept, "{}/training_data: holds no folder named <repeats>_<concept>.", "such as 10_my_concept/"),
        (no_image, "{}/training_data/2_colours: holds no image.", "Put images (.avif, .bmp, .gif"),
        (no_picture, "{}/training_data/2_colours/green.png: cannot be read as an image", "Replace it or take it out."),
        (damaged_picture, "{}/training_data/2_colours/gold.png: cannot be decoded (image file is", "Replace"),
        (no_caption, "{}/training_data/2_/red.png: has no caption", "Write red.txt or red.caption beside it."),
        (empty_caption, "{}/training_data/2_colours/blue.txt: is empty.", "Describe the image in it, or remove it"),
        (edit("network_dim", "network_dmi"), "{}/training_config.toml, line 12: network_dmi is not a known key.",
         "Did you mean 'network_dim'?"),
        (edit("network_dim = 2", 'network_dim = "two"'),
         "{}/training_config.toml, line 12: network_dim must be a whole number, not 'two'.", "help training-config"),
        (edit("max_train_steps = 4", "max_train_steps = 0"),
         "{}/training_config.toml, line 11: max_train_steps must be at least 1.", "help training-config"),
        (edit("network_dim = 2", "network_dim = = 2"), "{}/training_config.toml is not valid TOML: ", "line 12"),
        (edit("tiny-sd", "tiny-sdd"), "tiny-sdd does not exist.", "Name a diffusers folder, a .safetensors file"),
        (own_settings("[budgt]\nmax = 5"), "{}/gpurent.toml, line 1: budgt is not a known key.",
         "Did you mean 'budget'?"),
        (own_settings("[budget]\nmax = 'five'"),
         "{}/gpurent.toml, line 2: budget.max: an amount of dollars such as 10", "not 'five'."),
        (own_settings("\n[need]\ndisk_gb = '20'"), "{}/gpurent.toml, line 3: need.disk_gb: a valid integer, not '20'.",
         "gpurent help configuration"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_folder_is_named_with_place_and_remedy(
    terminal: Terminal, mistake: Callable[[Path], None], message: str, hint: str
) -> None:
    """Exit 2, no quote, one sentence on what is wrong and one on what to do; files that cannot be used are named."""
    make_job(terminal.folder)
    mistake(terminal.folder)
    ended = terminal.run("train", "--budget", "1", "--yes")
    assert ended.returncode == 2
    assert all("cannot be used" in line for line in ended.stdout.splitlines()), ended.stdout
    assert ended.stderr.startswith("error: ")
    assert message.format(terminal.folder) in ended.stderr
    assert hint in ended.stderr


@pytest.mark.parametrize("amount", ["0", "0.0", "-5", "ten", "", "nan", "inf", "1,5"])
def test_a_budget_that_is_no_positive_amount_is_refused(terminal: Terminal, amount: str) -> None:
    """The message says what a budget looks like."""
    make_job(terminal.folder)
    ended = terminal.run("train", f"--budget={amount}", "--yes")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Invalid value for '--budget'" in ended.stderr
    assert "dollars such as 10 or 0.50" in ended.stderr


def test_without_a_budget_nothing_starts(terminal: Terminal) -> None:
    """There is no default for money; the message shows both ways to give one."""
    make_job(terminal.folder)
    ended = terminal.run("train", "--yes")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "No budget was given." in ended.stderr
    assert "gpurent train --budget 10" in ended.stderr


def test_a_budget_below_the_cheapest_offer_says_how_much_would_do(terminal: Terminal) -> None:
    """Exit 3; the amount that is named is enough, and a cent less is not."""
    make_job(terminal.folder, steps=100_000)
    refused = terminal.run("train", "--budget", "0.005", "--yes")
    assert refused.returncode == 3
    assert "error: $0.005 is too little: the cheapest fitting offer (" in refused.stderr
    enough = re.search(r"--budget ([0-9.]+) would do", refused.stderr)
    assert enough is not None
    assert terminal.run("train", "--budget", enough[1], "--dry-run").returncode == 0
    less = f"{float(enough[1]) - 0.01:.2f}"
    as_json = terminal.run("quote", "--budget", less, "--json")
    assert as_json.returncode == 3
    assert json.loads(as_json.stderr)["enough_micros"] == round(float(enough[1]) * 1_000_000)


def test_a_need_that_nobody_meets_says_why(terminal: Terminal) -> None:
    """Where a service filters for us, everything that was asked for is repeated: one of it has to give way."""
    make_job(terminal.folder)
    ended = terminal.run("train", "--budget", "1", "--yes", "--gpu", "Voodoo2", "--max-price", "0.001")
    assert ended.returncode == 3
    assert re.search(r"lists anything with Voodoo2, .* GB of GPU memory, .* at most \$0.001/h", ended.stderr)
    assert "Loosen --gpu, --max-price or [need]" in ended.stderr


def test_a_gpu_that_the_price_table_lacks_is_answered_with_those_it_has(alone: Terminal) -> None:
    """The reason is said once for all cards together, not once for each."""
    ended = alone.run("quote", "--images", "5", "--gpu", "Voodoo2")
    assert ended.returncode == 3
    assert re.search(r"No offer fits this job: .*RTX 3090, .*RTX 4090.*: not Voodoo2\.", ended.stderr)


def test_an_empty_folder_is_told_what_is_missing_and_what_to_do(terminal: Terminal) -> None:
    """Both parts with the places looked at, and the next command."""
    ended = terminal.run("train", "--budget", "10", "--yes")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"error: No training configuration at {terminal.folder / CONFIG}, "
        f"and no dataset at {terminal.folder / 'training_data'}.\n"
        "hint: `gpurent init` writes a configuration to start from. "
        "Put images with captions into training_data/10_my_concept/, or pass --dataset FOLDER.\n"
    )
    assert "gpurent quote --images 50" in terminal.run("quote").stderr


def test_what_the_command_line_named_is_not_blamed_on_a_file(terminal: Terminal) -> None:
    """A wrong --config or --dataset is quoted back, without a word on gpurent.toml."""
    make_job(terminal.folder)
    config = terminal.run("train", "--budget", "1", "--config", "cats.toml", "--yes")
    assert config.returncode == 2
    assert f"No training configuration at {terminal.folder / 'cats.toml'}" in config.stderr
    assert "there is training_config.toml: pass --config" in config.stderr
    dataset = terminal.run("train", "--budget", "1", "--dataset", "cats", "--yes")
    assert dataset.returncode == 2
    assert dataset.stderr.startswith(f"error: No dataset at {terminal.folder / 'cats'}.\n")
    assert "gpurent.toml" not in config.stderr + dataset.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["quote", "--imags", "4"], "--images"),
        (["quote", "--images", "none"], "--images"),
        (["quote", "--images", "0"], "--images"),
        (["quote", "--images", "5", "--family", "flux"], "the family is one of sd15, sd2, sdxl, not 'flux'"),
        (["quote", "--images", "5", "--dataset", "here"], "cannot be combined with --config or --dataset"),
        (["sandbox", "up", "--fault", "earthquake"], "'earthquake' is not a fault"),
        (["demo", "--example", "nowhere"], "nowhere/prompts.toml does not exist"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_nearest(alone: Terminal, arguments: list[str], message: str) -> None:
    """Exit 2, and the words that help on standard error."""
    ended = alone.run(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("http_429:p=2", "p in 0..1"), ("http_429:0", "times must be at least 1"), ("list_lag=1.2.3", "not a number"),
        ("http_429:p=.", "not a number"), ("http_429:p=", "not a number"), ("http_429:x", "not a number"),
        ("http_42", "Did you mean http_429?"), ("list_lag=nan", "not negative"), ("", "is not a fault"),
    ],
)  # fmt: skip
def test_a_wrong_fault_is_a_mistake_on_the_command_line(alone: Terminal, fault: str, said: str) -> None:
    """Named with what was expected and an example; no market starts."""
    ended = alone.run("sandbox", "up", "--fault", fault)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert said in ended.stderr and f"--fault {fault}" in ended.stderr and "http_500:2" in ended.stderr
