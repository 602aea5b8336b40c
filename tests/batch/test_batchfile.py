"""Files that list jobs: what they mean, and what is wrong with them, all of it before any money."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.session.world import make_job

from gpurent.dataset.batchfile import checked, wanted
from gpurent.errors import ConfigError, UsageError


def batch(folder: Path, text: str) -> Path:
    """A batch file beside a configuration of its own."""
    make_job(folder)
    path = folder / "batch.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_matrix_multiplies_every_job_and_names_what_it_makes(tmp_path: Path) -> None:
    """Keys at the top hold for all jobs, those of a job win, and a combination is a part of the name."""
    path = batch(tmp_path, """
config = "training_config.toml"
learning_rate = 1e-4
max_train_steps = 6
[matrix]
network_dim = [4, 8]
[[job]]
name = "cat"
[[job]]
name = "dog"
max_train_epochs = 3
[job.matrix]
seed = [1, 2]
""")  # fmt: skip
    jobs = checked(wanted([path]))
    assert [(job.name, job.spec.network_dim, job.spec.seed) for job in jobs] == [
        ("cat-network_dim4", 4, 0), ("cat-network_dim8", 8, 0),
        ("dog-network_dim4-seed1", 4, 1), ("dog-network_dim4-seed2", 4, 2),
        ("dog-network_dim8-seed1", 8, 1), ("dog-network_dim8-seed2", 8, 2),
    ]  # fmt: skip
    assert {job.spec.learning_rate for job in jobs} == {1e-4}
    assert [job.length.epochs for job in jobs][-1] == 3 and jobs[0].length.steps == 6


def test_a_folder_is_all_its_configurations(tmp_path: Path) -> None:
    """In the order of their names; gpurent.toml is none of them, and a plain configuration is a job as it stands."""
    first = make_job(tmp_path)
    (tmp_path / "gpurent.toml").write_text("[budget]\nmax = 5\n", encoding="utf-8")
    (tmp_path / "another.toml").write_text(first.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "prompts.toml").write_text("[[prompt]]\ntext = 'a cat'\n", encoding="utf-8")
    left: list[Path] = []
    found = wanted([tmp_path], left.append)
    assert [one.config.name for one in found] == ["another.toml", "training_config.toml"]
    assert [one.name for one in left] == ["prompts.toml"]
    assert [job.name for job in checked(wanted([first]))] == ["swatch"]


def test_a_spelling_of_its_own_for_a_key_does_not_hide_a_change(tmp_path: Path) -> None:
    """The configuration says batch_size, the job train_batch_size: the job's wins; so does its length, over epochs."""
    path = batch(tmp_path, 'config = "training_config.toml"\n[[job]]\ntrain_batch_size = 2\nmax_train_epochs = 1\n')
    (job,) = checked(wanted([path]))
    assert (job.spec.train_batch_size, job.length.epochs) == (2, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[job]]\nname = 'cat'\n", "config is missing"),
        ("config = 'training_config.toml'\n[matrix]\nnetwork_dim = 16\n", "must be a list of values"),
        ("config = 'training_config.toml'\n[[job]]\ndatset = 'cats'\n", "datset is not a known key"),
        ("config = 5\n[[job]]\nname = 'cat'\n", "config must be a text"),
        ("config = 'training_config.toml'\njob = 5\n[matrix]\nseed = [1]\n", "must be a list of tables"),
        ("config = 'x'\n[matrix]\nseed = [1", "not valid TOML"),
    ],
)
def test_a_batch_file_that_is_wrong_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """The file, the job and the key."""
    path = batch(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as refused:
        wanted([path])
    assert "batch.toml" in str(refused.value)


def test_every_table_that_is_wrong_is_named(tmp_path: Path) -> None:
    """A misspelt key before what is missing because of it."""
    path = batch(tmp_path, "[[job]]\nconfg = 'training_config.toml'\n[[job]]\nname = 5\n")
    with pytest.raises(ConfigError) as refused:
        wanted([path])
    first, second = refused.value.parts
    assert (
        "confg is not a known key" in str(first) and "'config'" in first.hint and "name must be a text" in str(second)
    )


def test_all_jobs_that_cannot_run_are_named_at_once(tmp_path: Path) -> None:
    """One has a wrong key, one no dataset, one is good: two reasons in one message."""
    path = batch(tmp_path, """
config = "training_config.toml"
[[job]]
name = "good"
[[job]]
name = "misspelt"
network_dimm = 4
[[job]]
name = "empty"
dataset = "nowhere"
""")  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"2 of 3 jobs cannot run; nothing was rented\. \(1\) misspelt in batch\.toml: .*network_dim"
    ) as found:
        checked(wanted([path]))
    assert "(2) empty in batch.toml: " in str(found.value) and "nowhere" in str(found.value)


def test_paths_that_lead_nowhere_and_endless_matrices_are_refused(tmp_path: Path) -> None:
    """Before anything is read of them."""
    with pytest.raises(UsageError, match="does not exist"):
        wanted([tmp_path / "none.toml"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no \.toml"):
        wanted([tmp_path / "empty"])
    numbers = list(range(30))
    path = batch(tmp_path, f"config = 'training_config.toml'\n[matrix]\nseed = {numbers}\nnetwork_dim = {numbers}\n")
    with pytest.raises(UsageError, match="900 jobs are more than"):
        wanted([path])
