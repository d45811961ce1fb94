"""The Hub says no, breaks off or is slow: one sentence each, nothing lost, and the same command goes on."""

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
    """What is put together lands under the folder that a user is in; nobody waits between two tries."""
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
        ("datasets/me/x", "leave datasets/ out, the command tells the type"),
    ],
)
def test_a_name_that_cannot_be_is_told_before_anything_is_asked(repo_id, message, world, hub):
    with pytest.raises(InputError, match=message):
        publish(world, repo_id)
    assert hub.requests == []


def test_without_a_token_it_says_how_to_get_one(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(InputError, match="without a token: `hf auth login`, or set HF_TOKEN"):
        publish(world)


def test_a_wrong_token_is_told_and_not_shown(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(InputError, match="the Hub does not know the token") as error:
        publish(world)
    assert "xxxx" not in str(error.value)


def test_a_token_that_may_only_read_stops_it_and_nothing_is_made(world, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ)
    with pytest.raises(InputError, match="the token may not write to 'me/model'.*write permission") as error:
        publish(world)
    assert READ not in str(error.value)
    assert hub.repos == {}


def test_an_organisation_of_others_stops_it(world, hub):
    with pytest.raises(InputError, match="'others/model' does not belong to me or org, whose token this is"):
        publish(world, "others/model")


def test_a_token_that_may_not_write_there_is_found_when_the_repository_is_made(world, hub):
    hub.read_only.add("/api/repos/create")
    with pytest.raises(InputError, match="the token may not write to 'org/model'"):
        publish(world, "org/model")
    assert not hub.asked(LFS)


def test_offline_is_told(world, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        publish(world)


def test_no_network_is_told(world, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="the Hub cannot be reached"):
        publish(world)


def test_a_name_that_others_use_is_left_alone(world, hub):
    theirs = hub.repos["model", "me/model"] = Repo(private=True, files={"model.safetensors": b"theirs"})
    with pytest.raises(InputError, match="with 1 files that dermgen did not put there: choose another --repo_id"):
        publish(world)
    assert theirs.files == {"model.safetensors": b"theirs"}


def test_a_name_of_a_data_set_is_not_taken_for_a_model(world, hub):
    hub.repos["dataset", "me/model"] = Repo(private=True)
    with pytest.raises(InputError, match="me/model is a dataset on the Hub: publish this model by another name"):
        publish(world)


def test_private_unless_asked_and_public_is_never_changed_unsaid(world, hub):
    publish(world)
    assert hub.repos["model", "me/model"].private
    publish(world, public=True)
    assert not hub.repos["model", "me/model"].private
    with pytest.raises(InputError, match="is public on the Hub: say so with --public"):
        publish(world)


def test_a_public_one_is_public_only_when_all_of_it_is_there(world, hub):
    hub.fail(r"POST .*/commit/", 500, times=99)
    with pytest.raises(InputError, match="out of order"):
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
def test_a_refused_commit_is_one_sentence_and_the_same_command_goes_on(status, world, hub):
    hub.fail(r"POST .*/commit/", status, times=99)
    with pytest.raises(InputError) as error:
        publish(world)
    words = {
        401: "does not know the token",
        403: "may not write",
        409: "changed by somebody else",
        500: "try again later",
    }
    assert words[status] in str(error.value)
    assert "the same command goes on with the rest" in str(error.value)
    assert WRITE not in str(error.value)
    assert not hub.repos["model", "me/model"].files
    hub.faults.clear()
    sent = len(hub.asked(LFS))
    publish(world)
    assert "README.md" in hub.repos["model", "me/model"].files
    assert len(hub.asked(LFS)) == sent, "what had arrived was sent again"


def test_a_cut_connection_is_tried_again_and_in_the_end_told(world, hub):
    hub.fail(LFS, cut, times=1)
    publish(world)
    assert hub.repos["model", "me/model"].files
    hub.reset()
    hub.fail(LFS, cut, times=99)
    with pytest.raises(InputError, match="the Hub cannot be reached.*the same command goes on"):
        publish(world)
    hub.faults.clear()
    publish(world)
    weights = (world.run / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    assert hub.repos["model", "me/model"].files["unet/diffusion_pytorch_model.safetensors"] == weights


def test_a_slow_answer_is_waited_for(world, hub):
    hub.fail(r"POST .*/preupload/", slow(1.5))
    assert publish(world)


def test_metadata_that_the_hub_refuses_is_told_before_the_upload(world, hub, tmp_path):
    template = tmp_path / "mine.md"
    template.write_text("---\n{{ card_data }}\nlicense: nonsense\n---\n# {{ title }}")
    with pytest.raises(InputError, match='the Hub refuses the metadata of the card: "license" must be one of'):
        publish(world, card_template=str(template))
    assert not hub.asked(LFS)


def test_the_name_alone_is_one_of_ones_own(world, hub):
    assert publish(world, "model").endswith("/me/model")


def test_the_loopback_hub_is_what_the_client_believes_it_to_be(hub, tmp_path):
    """A plain upload and download by huggingface_hub, without a line of ours."""
    api = HfApi()
    api.create_repo("me/plain", private=True)
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 100)
    api.upload_file(path_or_fileobj=tmp_path / "a.bin", path_in_repo="deep/a.bin", repo_id="me/plain")
    back = api.hf_hub_download("me/plain", "deep/a.bin", local_dir=tmp_path / "back")
    assert Path(back).read_bytes() == (tmp_path / "a.bin").read_bytes()
    assert [f.path for f in api.list_repo_tree("me/plain", recursive=True)] == ["deep", "deep/a.bin"]


def test_a_refusal_of_the_newer_storage_is_one_sentence_too(world, hub, monkeypatch):
    """The client streams large files to Xet where it can; the loopback Hub has none, and says so."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    with pytest.raises(InputError, match="the Hub cannot be reached.*the same command goes on"):
        publish(world)
    assert hub.asked("xet-write-token")


def test_an_error_that_is_not_the_hubs_passes_as_it_is():
    with pytest.raises(RuntimeError, match="of another kind"), ours.sentences("me/x"):
        raise RuntimeError("of another kind")
