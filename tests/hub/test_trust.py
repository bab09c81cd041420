"""Loading a model folder runs no code but our own, whatever the folder names or links to."""

import json
import shutil
import sys

import pytest

from diffusers_soundctm import SoundCTMPipeline, hub
from diffusers_soundctm.hub.trust import HANDLER, REMOTE_CODE

EVIL = """import pathlib
pathlib.Path(__file__).parent.joinpath("ran").touch()
from diffusers_soundctm import *
"""


@pytest.fixture
def folder(embedded_folder, tmp_path):
    return shutil.copytree(embedded_folder, tmp_path / "models" / "model")


@pytest.fixture(autouse=True)
def nothing_evil_runs(monkeypatch, tmp_path):
    """Code that diffusers copies before it runs leaves its mark in the folder of copies."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    assert not list(tmp_path.rglob("ran"))


def edit(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in (content | values).items() if value != "-"}))


def refused(folder, match, **arguments):
    with pytest.raises(OSError, match=match):
        SoundCTMPipeline.from_pretrained(folder, **arguments)


@pytest.mark.parametrize("library", ["../../evil", "../evil", "{tmp}/evil", "evil.evil", "..evil", "", "evil\n"])
def test_libraries_are_plain_names(library, folder, tmp_path):
    for place in (tmp_path, tmp_path / "models", folder, folder / "unet"):
        (place / "evil.py").write_text(EVIL)
    edit(folder / hub.INDEX, unet=[library.format(tmp=tmp_path), "CTMUNet2DConditionModel"])
    refused(folder, "not a plain name")


@pytest.mark.parametrize(
    "change",
    [
        {"unet": ["diffusers_soundctm", "os.system"]},
        {"unet": ["diffusers_soundctm", "../CTMUNet2DConditionModel"]},
        {"_class_name": ["../evil", "SoundCTMPipeline"]},
        {"_class_name": ["{tmp}/evil", "SoundCTMPipeline"]},
        {"_class_name": "os.path"},
        {"../evil": ["diffusers_soundctm", "CTMUNet2DConditionModel"]},
    ],
)
def test_classes_and_components_are_plain_names(change, folder, tmp_path):
    for place in (tmp_path, tmp_path / "models"):
        (place / "evil.py").write_text(EVIL)
    text = json.dumps(change).replace("{tmp}", str(tmp_path))
    edit(folder / hub.INDEX, **json.loads(text))
    refused(folder, "not a plain name")


def test_components_have_a_library_and_a_class(folder):
    edit(folder / hub.INDEX, unet=["diffusers_soundctm", "CTMUNet2DConditionModel", "more"])
    refused(folder, "has a library and a class")


@pytest.mark.parametrize(
    ("file", "change", "match"),
    [
        ("unet/config.json", {"_class_name": "../../evil"}, "not a plain name"),
        ("text_encoder/config.json", {"architectures": ["evil.Model"]}, "not a plain name"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "code of its own"),
        ("text_encoder/config.json", {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}}, "code of its own"),
        ("text_encoder/config.json", {"_attn_implementation": "evil/kernel"}, "not a plain name"),
        ("text_encoder/config.json", {"attn_implementation": {"text": "evil/kernel"}}, "not a plain name"),
        ("scheduler/scheduler_config.json", {"_class_name": "a.b"}, "not a plain name"),
    ],
)
def test_configurations_of_components_name_no_code(file, change, match, folder):
    (folder / file).with_name("evil.py").write_text(EVIL)
    edit(folder / file, **change)
    refused(folder, match)


def test_words_of_a_vocabulary_are_no_names(folder):
    (folder / "tokenizer" / "vocab.json").write_text('{"architectures": 1, "auto_map": 2}')
    hub.check_folder(folder)


def test_a_component_that_is_passed_may_be_recorded_by_any_name(folder, tiny_pipeline):
    edit(folder / hub.INDEX, vae=["some.package", "AutoencoderKL"])
    refused(folder, "pass the component")
    hub.check_folder(folder, passed=["vae"])


@pytest.mark.parametrize("name", ["unet/config.json", "unet", "README.md", "vae/diffusion_pytorch_model.safetensors"])
def test_links_stay_inside_the_folder(name, folder, tmp_path):
    target = tmp_path / "elsewhere"
    (folder / "README.md").touch()
    (folder / name).rename(target)
    (folder / name).symlink_to(target)
    refused(folder, "outside of the model's folder")
    (folder / name).unlink()
    inside = folder / "kept"
    target.rename(inside)
    (folder / name).symlink_to(inside)
    hub.check_folder(folder)


def test_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "commit", tmp_path / "cache" / "blobs"
    shutil.copytree(folder, snapshot)
    blobs.mkdir()
    for number, file in enumerate([path for path in snapshot.rglob("*") if path.is_file()]):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    hub.check_folder(snapshot)
    (tmp_path / "given").symlink_to(snapshot)
    hub.check_folder(tmp_path / "given")
    (snapshot / "more").symlink_to(tmp_path)
    with pytest.raises(OSError, match="outside"):
        hub.check_folder(snapshot)


def test_trust_is_given_for_our_exact_code_only(folder):
    assert hub.holds_only_our_code(folder)
    (folder / "pipeline.py").write_bytes(REMOTE_CODE)
    (folder / "handler.py").write_bytes(HANDLER)
    assert hub.holds_only_our_code(folder)
    for name, content in (
        ("unet/diffusers_soundctm.py", REMOTE_CODE + b"print('hello')\n"),
        ("unet/handler.py", REMOTE_CODE),
        ("notes.PY", b""),
        ("pipeline.py", HANDLER),
        ("deep/er/file.py", b"pass"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(content)
        assert not hub.holds_only_our_code(folder), name
        (folder / name).unlink() if before is None else (folder / name).write_bytes(before)
    assert hub.holds_only_our_code(folder)


def test_foreign_code_in_the_folder_needs_consent(folder):
    (folder / "pipeline.py").write_text(EVIL)
    edit(folder / hub.INDEX, _class_name=["pipeline", "SoundCTMPipeline"])
    with pytest.raises(ValueError, match="trust_remote_code"):
        SoundCTMPipeline.from_pretrained(folder)
    (folder / "pipeline.py").unlink()
    (folder / "unet" / "diffusers_soundctm.py").write_text(EVIL)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SoundCTMPipeline.from_pretrained(folder)


@pytest.mark.parametrize("beside", [True, False])
def test_custom_pipelines_need_consent(beside, folder, tmp_path):
    (tmp_path / "pipeline.py").write_text(EVIL)
    if beside:
        (folder / "mine.py").write_text(EVIL)
    with pytest.raises(ValueError, match="trust_remote_code"):
        SoundCTMPipeline.from_pretrained(folder, custom_pipeline="mine" if beside else str(tmp_path / "pipeline.py"))


def test_the_model_that_a_sound_file_names(tmp_path):
    file = tmp_path / "draft.wav"
    assert hub.model_to_load("embedded", file) == "embedded"
    assert hub.model_to_load("someone/model", file, passed="mine") == "mine"
    assert hub.model_to_load("someone/model", file, in_use=["someone/model"]) == "someone/model"
    with pytest.raises(ValueError, match=r"draft.wav was made with the model 'someone/model'.*--model someone/model"):
        hub.model_to_load("someone/model", file)
    with pytest.raises(ValueError, match=r"'a\\x1b\[2Jb'.*with its name"):
        hub.model_to_load("a\x1b[2Jb", file)


# Files that are there and do not count, and files that are missing


def test_hidden_files_do_not_count(folder):
    """macOS adds them to archives and to foreign disks."""
    (folder / "__MACOSX").mkdir()
    for place in (folder, folder / "__MACOSX", folder / "unet", folder / "tokenizer"):
        for name in (".DS_Store", "._config.json", "._model_index.json", "._diffusion_pytorch_model.safetensors"):
            (place / name).write_bytes(b"\0\5\x16\7")
    hub.check_folder(folder)
    SoundCTMPipeline.from_pretrained(folder)


@pytest.mark.parametrize("pattern", ["config.json", "*.safetensors"])
def test_a_network_without_configuration_or_weights_is_named(folder, pattern):
    for file in (folder / "vocoder").glob(pattern):
        file.unlink()
    with pytest.raises(OSError, match=r"vocoder lacks (config.json|its weights).* pass `vocoder=`"):
        hub.check_folder(folder)


def test_a_half_downloaded_set_of_shards_is_named(folder):
    whole = next((folder / "vocoder").glob("*.safetensors"))
    shards = [f"{whole.stem}-0000{part}-of-00002.safetensors" for part in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "vocoder" / f"{whole.name}.index.json").write_text(json.dumps(index))
    hub.check_folder(folder)  # another set is complete
    whole.rename(whole.with_name(shards[0]))
    with pytest.raises(OSError, match=rf"vocoder lacks {shards[1]}; .* pass `vocoder=`"):
        hub.check_folder(folder)


def test_a_configuration_of_the_wrong_type_is_named(folder):
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": "many"}))
    with pytest.raises(OSError, match=r"(?s)model cannot be loaded .*hidden_size.* copy the model again"):
        SoundCTMPipeline.from_pretrained(folder)
