"""Nothing outside the dataset or the base model is read or sent, and nothing inside that is a secret."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dataset.test_base import COMPLETE
from tests.dataset.world import config, diffusers_folder, picture, safetensors, working_folder

from gpurent.dataset import secrets
from gpurent.dataset.bounds import Bounds, Outside
from gpurent.dataset.job import Job
from gpurent.errors import ConfigError, DatasetError, SourceChanged, UsageError
from gpurent.sending import AT_ONCE, open_checked

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAA=\n-----END OPENSSH PRIVATE KEY-----\n"
CONCEPT = "training_data/10_sks_cat"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """What must never leave this computer."""
    path = tmp_path / "home" / ".ssh" / "id_ed25519"
    path.parent.mkdir(parents=True)
    path.write_text(KEY)
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A working folder with a stranger's dataset in it."""
    return working_folder(tmp_path / "work", 3).parent


def refused(work: Path) -> UsageError:
    """Before money, by a sentence that says what to do."""
    with pytest.raises(UsageError) as caught:
        Job.from_config(work / "training_config.toml")
    assert caught.value.hint
    return caught.value


def replace(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", ["image001.txt", "image001.png", "image001.caption"])
def test_a_link_out_of_the_dataset_is_named(work: Path, key: Path, name: str, relative: bool) -> None:
    """Absolute or relative, in the place of a picture or of a caption."""
    path = work / CONCEPT / name
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(key, path.parent) if relative else key)
    error = refused(work)
    assert name in str(error) and "leads out of its folder" in str(error) and str(key) in str(error)


def test_a_chain_of_links_counts_by_its_end(work: Path, key: Path) -> None:
    """Each link but the last stays inside."""
    (work / CONCEPT / "hop").symlink_to(key)
    (work / CONCEPT / "hop2").symlink_to("hop")
    replace(work / CONCEPT / "image000.txt", "hop2")
    assert "image000.txt is a link that leads out" in str(refused(work))


def test_a_linked_folder_of_the_dataset_is_named(work: Path, tmp_path: Path) -> None:
    """Its pictures may be anybody's."""
    picture(tmp_path / "photos" / "holiday.png")
    (work / "training_data" / "5_dog").symlink_to(tmp_path / "photos")
    assert "5_dog is a link that leads out" in str(refused(work))


def test_a_folder_above_that_is_a_link_does_not_matter(work: Path, tmp_path: Path) -> None:
    """The dataset is where a person says that it is."""
    (tmp_path / "disk").symlink_to(work / "training_data")
    (work / "linked.toml").write_text((work / "training_config.toml").read_text())
    job = Job.from_config(work / "linked.toml", dataset=tmp_path / "disk")
    files = job.upload_files()
    assert len(files) == 6 and all(open_checked(file).read() == file.source.read_bytes() for file in files)


def test_a_link_inside_the_dataset_is_followed(work: Path) -> None:
    """It shows nothing that is not sent anyway."""
    replace(work / CONCEPT / "image002.txt", "image001.txt")
    files = {file.target: file for file in Job.from_config(work / "training_config.toml").upload_files()}
    assert open_checked(files["data/10_sks_cat/image002.txt"]).read() == b"sks cat, sitting on chair 1"


@pytest.mark.parametrize("target", ["nowhere", "image001.txt"])
def test_a_link_that_leads_nowhere_is_named(work: Path, target: str) -> None:
    """Missing, or in a circle."""
    replace(work / CONCEPT / "image001.txt", target)
    assert "cannot be followed" in str(refused(work))


@pytest.mark.parametrize("name", ["image001.txt", "extra.png"])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_named_and_not_waited_for(work: Path, name: str, kind: str) -> None:
    """Opening a pipe without a writer would take for ever."""
    path = work / CONCEPT / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    assert f"{name} is neither a file nor a folder" in str(refused(work))


def test_all_links_are_named_at_once(work: Path, key: Path) -> None:
    """Five of them, and how many more."""
    for number in range(8):
        (work / CONCEPT / f"more{number}.txt").symlink_to(key)
    error = str(refused(work))
    assert error.count("is a link that leads out") == 5 and "and 3 more" in error


SECRETS = {
    "an OpenSSH key": KEY,
    "a PEM key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n",
    "an encrypted key": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE\n",
    "a PGP key": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n",
    "a PuTTY key": "PuTTY-User-Key-File-3: ssh-ed25519\n",
    "an .env file": "VAST_API_KEY=0123456789abcdef\n",
    "an exported token": "export HF_TOKEN=hf_xxxxxxxx\n",
    "a Hugging Face token": "hf_" + "aB3" * 11 + "x",
    "a Vast.ai key": "0123456789abcdef" * 4 + "\n",
    "a RunPod key": "rpa_" + "A1B2" * 11,
    "a GitHub token": "ghp_" + "a" * 36,
    "an API key": "sk-proj-" + "a1" * 24,
    "an AWS key": "AKIAIOSFODNN7EXAMPLE",
    "a web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP",
    "a netrc": "machine api.example login me password abc\n",
    "service credentials": '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIE"}',
    "a cloud token": '{"access_token": "ya29.aaaaaaaaaa"}',
}


@pytest.mark.parametrize("content", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("place", ["caption", "model file"])
def test_a_copy_of_a_secret_is_refused_by_name(work: Path, content: str, place: str) -> None:
    """Wherever a caption or a model file is expected; its content is not repeated."""
    path = work / CONCEPT / "image001.txt"
    if place == "model file":
        path = diffusers_folder(work / "base") / "tokenizer" / "merges.txt"
        config(work, model="base")
    path.write_text(content)
    error = str(refused(work))
    assert path.name in error and " looks like " in error and content[:20] not in error


def test_a_hard_link_to_a_key_is_refused_by_what_it_holds(work: Path, key: Path) -> None:
    """No path gives it away."""
    (work / CONCEPT / "image001.txt").unlink()
    (work / CONCEPT / "image001.txt").hardlink_to(key)
    assert "image001.txt looks like a private key" in str(refused(work))


def test_a_key_that_calls_itself_a_picture_is_named(work: Path) -> None:
    """It cannot be decoded, and would not be sent."""
    (work / CONCEPT / "image001.png").write_text(KEY)
    assert "image001.png" in str(refused(work))


def test_captions_that_end_like_keys_are_refused(work: Path) -> None:
    """A stranger's configuration chooses what captions are called."""
    configuration = work / "training_config.toml"
    configuration.write_text(configuration.read_text().replace("[dataset]", '[dataset]\ncaption_extension = ".env"'))
    with pytest.raises(ConfigError, match=r"caption_extension: files that end in \.env hold keys"):
        Job.from_config(configuration)


@pytest.mark.parametrize("name", ["credentials.json", "client_secret_1.json", "service_account.json"])
def test_a_model_file_that_is_called_like_a_secret_is_refused(work: Path, name: str) -> None:
    """Every JSON file of a model's parts would be sent."""
    (diffusers_folder(work / "base") / "scheduler" / name).write_text("{}")
    config(work, model="base")
    assert f"{name} looks like a file of keys" in str(refused(work))


@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "photo",
                "of",
                "sks",
                "cat,",
                "token",
                "secret",
                "password",
                "masterpiece",
                "key",
                "1girl",
                "sk-",
                "hf_",
                ":-)",
                "=",
            ]
        )
    )
)
def test_a_caption_is_no_secret(words: list[str]) -> None:
    """Words about secrets are none."""
    assert secrets.secret_in(", ".join(words).encode()) is None


@pytest.mark.parametrize(
    "part", ["tokenizer/merges.txt", "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]
)
def test_a_link_out_of_the_base_model_is_named(work: Path, key: Path, part: str) -> None:
    """A folder from the hub's site may hold any link."""
    replace(diffusers_folder(work / "base") / part, key)
    config(work, model="base")
    error = refused(work)
    assert Path(part).name in str(error) and "leads out of its folder" in str(error) and "Copy it" in error.hint


def test_a_linked_part_of_the_base_model_is_named(work: Path, tmp_path: Path) -> None:
    """Its files lie elsewhere."""
    base = diffusers_folder(work / "base")
    (base / "vae").rename(tmp_path / "vae")
    (base / "vae").symlink_to(tmp_path / "vae")
    config(work, model="base")
    assert "leads out of its folder" in str(refused(work))


def hub_cache(folder: Path, files: dict[str, Path]) -> Path:
    """The hub's cache: blobs, and a snapshot of links to them; returns the snapshot."""
    cache = folder / "models--runwayml--stable-diffusion-v1-5"
    snapshot = cache / "snapshots" / "39593d5650112b4cc580433f6b0435385882d819"
    (cache / "blobs").mkdir(parents=True)
    for number, (name, path) in enumerate(files.items()):
        blob = cache / "blobs" / f"{number:064x}"
        path.rename(blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def test_a_folder_of_the_hubs_cache_is_a_base_model(work: Path, tmp_path: Path) -> None:
    """All its files are links to blobs of the same model."""
    base = diffusers_folder(tmp_path / "base")
    snapshot = hub_cache(
        tmp_path / "hub", {str(one.relative_to(base)): one for one in base.rglob("*") if one.is_file()}
    )
    job = Job.from_config(config(work, model=str(snapshot)))
    files = {file.target: file for file in job.upload_files()}
    assert open_checked(files["base/model_index.json"]).read() == b'{"_class_name": "StableDiffusionPipeline"}'
    assert files["base/unet/config.json"].source.parent.name == "blobs"


def test_a_file_of_the_hubs_cache_is_a_base_model(work: Path, tmp_path: Path) -> None:
    """The name that was given counts; the blob has none."""
    file = safetensors(tmp_path / "v1-5-pruned.safetensors", COMPLETE)
    snapshot = hub_cache(tmp_path / "hub", {file.name: file})
    job = Job.from_config(config(work, model=str(snapshot / file.name)))
    assert [one.target for one in job.upload_files() if one.target.startswith("base")] == [f"base/{file.name}"]


@pytest.mark.parametrize("trick", ["blobs is a link", "beside the blobs", "blobs of another model", "above the blobs"])
def test_what_only_looks_like_the_hubs_cache_opens_nothing(work: Path, tmp_path: Path, key: Path, trick: str) -> None:
    """Only files that lie in the real folder of blobs beside the snapshots belong to the model."""
    base = diffusers_folder(tmp_path / "base")
    snapshot = hub_cache(
        tmp_path / "hub", {str(one.relative_to(base)): one for one in base.rglob("*") if one.is_file()}
    )
    merges, blobs = snapshot / "tokenizer" / "merges.txt", snapshot.parent.parent / "blobs"
    other = tmp_path / "hub" / "models--other" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_text("private")
    targets = {
        "blobs is a link": key.parent / key.name, "beside the blobs": key, "blobs of another model": other / "x",
        "above the blobs": blobs / ".." / ".." / ".." / "home" / ".ssh" / key.name,
    }  # fmt: skip
    if trick == "blobs is a link":
        blobs.rename(tmp_path / "moved")
        blobs.symlink_to(tmp_path / "moved")
    else:
        replace(merges, targets[trick])
    config(work, model=str(snapshot))
    assert "leads out of its folder" in str(refused(work))


def test_a_single_file_that_is_a_link_elsewhere_is_named_with_its_place(work: Path, tmp_path: Path) -> None:
    """Naming the file itself is all it takes."""
    real = safetensors(tmp_path / "models" / "dream.safetensors", COMPLETE)
    (work / "base.safetensors").symlink_to(real)
    config(work, model="base.safetensors")
    error = refused(work)
    assert f"to {real}" in str(error)
    config(work, model=str(real))
    assert Job.from_config(work / "training_config.toml").base_target == "base/dream.safetensors"


@pytest.mark.parametrize("moment", ["before the digest", "before it is sent"])
@pytest.mark.parametrize("trick", ["link to the key", "copy of the key", "folder becomes a link", "other words"])
def test_what_is_swapped_after_the_check_is_not_sent(work: Path, key: Path, trick: str, moment: str) -> None:
    """What was checked is what is sent, even if somebody writes into the dataset meanwhile."""
    job = Job.from_config(work / "training_config.toml")
    caption = work / CONCEPT / "image001.txt"

    def swap() -> None:
        if trick == "folder becomes a link":
            elsewhere = work.parent / "elsewhere"
            caption.parent.rename(elsewhere)
            (elsewhere / caption.name).write_text(KEY)
            caption.parent.symlink_to(elsewhere)
        elif trick == "link to the key":
            replace(caption, key)
        else:
            caption.write_text(KEY if trick == "copy of the key" else "other words")

    if moment == "before the digest":
        swap()
        if trick == "other words":  # harmless, and what is digested is what is sent
            assert len(job.upload_files()) == 6
            return
        with pytest.raises(SourceChanged):
            job.upload_files()
        return
    files = job.upload_files()
    swap()
    (file,) = [one for one in files if one.target.endswith("image001.txt")]
    with pytest.raises(SourceChanged, match=r"not sent"):
        open_checked(file)


def test_a_large_file_that_changes_before_it_is_sent_is_not_sent(work: Path) -> None:
    """It cannot be held in memory; what the system says of it must be as it was."""
    path = work / CONCEPT / "image001.png"
    with path.open("ab") as file:
        file.truncate(AT_ONCE + 10)
    files = Job.from_config(work / "training_config.toml").upload_files()
    (large,) = [one for one in files if one.size > AT_ONCE]
    open_checked(large).close()
    with path.open("r+b") as file:
        file.seek(AT_ONCE)
        file.write(b"x")
    with pytest.raises(SourceChanged):
        open_checked(large)


def test_a_path_with_dots_never_leaves_its_bounds(tmp_path: Path, key: Path) -> None:
    """However it is spelled."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("x")
    bounds = Bounds.around(tmp_path / "data")
    with pytest.raises(Outside):
        bounds.real(tmp_path / "data" / ".." / "home" / ".ssh" / "id_ed25519")
    with pytest.raises((ValueError, OSError)):
        bounds.open(tmp_path / "data" / ".." / "home" / ".ssh" / "id_ed25519")
    with bounds.open(bounds.real(tmp_path / "data" / "." / "a.txt")) as file:
        assert file.read() == b"x"


def test_a_configuration_that_is_no_file_is_not_waited_for(work: Path) -> None:
    """A pipe instead of a text."""
    (work / "training_config.toml").unlink()
    os.mkfifo(work / "training_config.toml")
    with pytest.raises(ConfigError, match="not a regular file"):
        Job.from_config(work / "training_config.toml")


def test_the_bounds_of_a_dataset_that_is_not_there_are_an_error_of_the_dataset(work: Path) -> None:
    """Said as before."""
    with pytest.raises(DatasetError, match="does not exist"):
        Job.from_config(work / "training_config.toml", dataset=work / "nothing")
