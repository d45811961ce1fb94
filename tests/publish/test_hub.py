"""The Hub refuses, breaks off or is slow: one sentence each, nothing lost, and the same command resumes."""

from pathlib import Path

import pytest
from hub_server import READ, WRITE, Repo, cut, slow
from huggingface_hub import HfApi

from dermgen.config import InputError
from dermgen.publish import hub as ours
from dermgen.publish.model import PublishModelConfig, publish_model

LFS = r"PUT /lfs/"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Publications are put together under the working folder, without waiting between two tries."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def publish(world, repo_id="me/model", **settings):
    return publish_model(
        PublishModelConfig(run=str(world.run), repo_id=repo_id, evidence=[str(world.results)], **settings)
    )


@pytest.mark.parametrize(
    ("repo_id", "message"),
    [
        ("a/b/c", "--repo_id must be like org/name, got 'a/b/c'"),
        ("me/na me", "--repo_id must be like org/name, got 'me/na me'"),
        ("datasets/me/x", "leave datasets/ out, the command implies it"),
    ],
)
def test_an_invalid_name_is_an_error_before_any_request(repo_id, message, world, hub):
    with pytest.raises(InputError, match=message):
        publish(world, repo_id)
    assert hub.requests == []


def test_an_error_for_a_missing_token_says_how_to_get_one(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(InputError, match="without a token: `hf auth login`, or set HF_TOKEN"):
        publish(world)


def test_an_error_for_a_wrong_token_does_not_show_it(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(InputError, match="the Hub does not accept the token") as error:
        publish(world)
    assert "xxxx" not in str(error.value)


def test_a_read_only_token_is_refused_before_anything_is_created(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ)
    with pytest.raises(InputError, match="the token may not write to 'me/model'.*write permission") as error:
        publish(world)
    assert READ not in str(error.value)
    assert hub.repos == {}


def test_an_organisation_of_others_is_refused(world, hub):
    with pytest.raises(InputError, match="'others/model' does not belong to me or org, whose token this is"):
        publish(world, "others/model")


def test_a_token_without_write_permission_fails_when_the_repository_is_created_before_any_upload(world, hub):
    hub.read_only.add("/api/repos/create")
    with pytest.raises(InputError, match="the token may not write to 'org/model'"):
        publish(world, "org/model")
    assert not hub.asked(LFS)


def test_offline_mode_is_an_error_that_names_its_variable(world, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        publish(world)


def test_a_missing_network_is_an_error(world, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="the Hub cannot be reached"):
        publish(world)


def test_a_repository_of_another_program_is_left_unchanged(world, hub):
    theirs = hub.repos["model", "me/model"] = Repo(private=True, files={"model.safetensors": b"theirs"})
    with pytest.raises(InputError, match="with 1 file that dermgen did not write: choose another --repo_id"):
        publish(world)
    assert theirs.files == {"model.safetensors": b"theirs"}


def test_the_name_of_a_data_set_is_refused_for_a_model(world, hub):
    hub.repos["dataset", "me/model"] = Repo(private=True)
    with pytest.raises(InputError, match="me/model is a dataset on the Hub: publish this model by another name"):
        publish(world)


def test_a_repository_is_private_unless_requested_and_a_public_one_needs_the_flag_again(world, hub):
    publish(world)
    assert hub.repos["model", "me/model"].private
    publish(world, public=True)
    assert not hub.repos["model", "me/model"].private
    with pytest.raises(InputError, match="is public on the Hub: confirm with --public"):
        publish(world)


def test_a_public_repository_stays_private_until_its_upload_is_complete(world, hub):
    hub.fail(r"POST .*/commit/", 500, times=99)
    with pytest.raises(InputError, match="unavailable or too busy"):
        publish(world, public=True)
    assert hub.repos["model", "me/model"].private


def test_publishing_again_leaves_exactly_the_new_files(world, hub):
    publish(world)
    repo = hub.repos["model", "me/model"]
    repo.files["stale.bin"] = b"old"
    before = set(repo.files) - {"stale.bin"}
    publish(world)
    assert set(repo.files) == before


@pytest.mark.parametrize("status", [401, 403, 409, 500])
def test_a_refused_commit_is_one_sentence_and_the_same_command_resumes(status, world, hub):
    hub.fail(r"POST .*/commit/", status, times=99)
    with pytest.raises(InputError) as error:
        publish(world)
    words = {
        401: "does not accept the token",
        403: "may not write",
        409: "changed by somebody else",
        500: "try again later",
    }
    assert words[status] in str(error.value)
    assert "run the same command again to resume" in str(error.value)
    assert WRITE not in str(error.value)
    assert not hub.repos["model", "me/model"].files
    hub.faults.clear()
    sent = len(hub.asked(LFS))
    publish(world)
    assert "README.md" in hub.repos["model", "me/model"].files
    assert len(hub.asked(LFS)) == sent, "files that had arrived were sent again"


def test_a_cut_connection_is_tried_again_before_it_is_an_error(world, hub):
    hub.fail(LFS, cut, times=1)
    publish(world)
    assert hub.repos["model", "me/model"].files
    hub.reset()
    hub.fail(LFS, cut, times=99)
    with pytest.raises(InputError, match="the Hub cannot be reached.*run the same command again to resume"):
        publish(world)
    hub.faults.clear()
    publish(world)
    weights = (world.run / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert hub.repos["model", "me/model"].files["unet/diffusion_pytorch_model.safetensors"] == weights


def test_a_slow_answer_is_waited_for(world, hub):
    hub.fail(r"POST .*/preupload/", slow(1.5))
    assert publish(world)


def test_metadata_that_the_hub_refuses_is_an_error_before_the_upload(world, hub, tmp_path):
    template = tmp_path / "mine.md"
    template.write_text("---\n{{ card_data }}\nlicense: nonsense\n---\n# {{ title }}")
    with pytest.raises(InputError, match='the Hub refuses the metadata of the card: "license" must be one of'):
        publish(world, card_template=str(template))
    assert not hub.asked(LFS)


def test_a_name_without_a_namespace_gets_the_users(world, hub):
    assert publish(world, "model").endswith("/me/model")


def test_the_loopback_hub_serves_the_plain_client(hub, tmp_path):
    """A plain upload and download by huggingface_hub, without any code of dermgen."""
    api = HfApi()
    api.create_repo("me/plain", private=True)
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 100)
    api.upload_file(path_or_fileobj=tmp_path / "a.bin", path_in_repo="deep/a.bin", repo_id="me/plain")
    back = api.hf_hub_download("me/plain", "deep/a.bin", local_dir=tmp_path / "back")
    assert Path(back).read_bytes() == (tmp_path / "a.bin").read_bytes()
    assert [f.path for f in api.list_repo_tree("me/plain", recursive=True)] == ["deep", "deep/a.bin"]


def test_a_refusal_by_the_newer_storage_is_one_sentence_too(world, hub, monkeypatch):
    """The client streams large files to Xet if it can; the loopback Hub has none, and says so."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    with pytest.raises(InputError, match="the Hub cannot be reached.*run the same command again to resume"):
        publish(world)
    assert hub.asked("xet-write-token")


def test_an_error_that_is_not_the_hubs_is_raised_unchanged():
    with pytest.raises(RuntimeError, match="of another kind"), ours.sentences("me/x"):
        raise RuntimeError("of another kind")
