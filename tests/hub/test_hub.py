"""Hub ids, with the real client against a small stand-in for the Hub on this machine."""

import base64
import json
import sys
from pathlib import Path

import pytest

from diffusers_soundctm import SoundCTMPipeline, hub
from diffusers_soundctm.hub.download import wanted_files
from diffusers_soundctm.hub.trust import HANDLER, REMOTE_CODE
from fake_hub import REPO, python


def test_push_and_load_by_id(fake_hub, embedded_folder, tmp_path):
    # Files that a load does not need are left alone.
    extra = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "sounds/rain.wav"]
    fake_hub.files.update(dict.fromkeys(extra, b"not needed"))
    code = f"""
pipe = SoundCTMPipeline.from_pretrained({str(embedded_folder)!r})
print(pipe.push_to_hub(REPO, license="apache-2.0"))
try_out(SoundCTMPipeline.from_pretrained(REPO))
"""
    assert f"{REPO} (1, 1, 20480)" in python(code, fake_hub, tmp_path).stdout
    card = fake_hub.files["README.md"].decode()
    assert "language: en" in card and "- text: rain on a tin roof" in card and "Colab" in card
    assert "license: apache-2.0" in card and f'from_pretrained("{REPO}")' in card and "from 2 to 5 in training" in card
    assert "unet/diffusion_pytorch_model.safetensors" in fake_hub.requested
    assert not {*extra, "README.md", "pipeline.py", "handler.py"} & set(fake_hub.requested)
    assert "requirements.txt" not in fake_hub.files  # it could only name a package that is not on PyPI
    assert len(fake_hub.lfs) >= 4  # the weights went by LFS

    # Offline, from the cache the last process filled.
    fake_hub.requested.clear()
    offline = python("try_out(SoundCTMPipeline.from_pretrained(REPO))", fake_hub, tmp_path, HF_HUB_OFFLINE="1")
    assert f"{REPO} (1, 1, 20480)" in offline.stdout
    assert fake_hub.requested == []

    # The stock class loads the same repo, and the Python files it fetched do not get in the way of ours.
    for name in extra:
        del fake_hub.files[name]
    code = """
try_out(DiffusionPipeline.from_pretrained(REPO, trust_remote_code=True))
try_out(SoundCTMPipeline.from_pretrained(REPO))
"""
    assert python(code, fake_hub, tmp_path / "stock").stdout.count("(1, 1, 20480)") == 2


@pytest.mark.slow
def test_a_second_push_keeps_an_edited_card(fake_hub, embedded_folder, tmp_path):
    code = f"""
pipe = SoundCTMPipeline.from_pretrained({str(embedded_folder)!r})
pipe.register_to_config(guidance_scale_range=[1.0, 8.0])
pipe.save_pretrained({str(tmp_path / "tiny-soundctm")!r}, push_to_hub=True, repo_id=REPO%s)
"""
    python(code % ", license='mit'", fake_hub, tmp_path / "first")
    card = fake_hub.files["README.md"].decode()
    assert "license: mit" in card and "from 1 to 8 in training" in card
    assert (tmp_path / "tiny-soundctm" / "README.md").read_text() == card
    assert {"pipeline.py", "unet/diffusers_soundctm.py", "unet/diffusion_pytorch_model.safetensors"} <= set(
        fake_hub.files
    )

    edited = card.replace("license: mit", "license: cc-by-4.0").replace(
        "- text-to-audio\n", "- text-to-audio\n- mine\n"
    )
    edited = edited.replace("A [SoundCTM]", "My own words. A [SoundCTM]") + "\n## Recorded in my garden\n"
    (tmp_path / "tiny-soundctm" / "private.txt").write_text("not uploaded")
    fake_hub.files["README.md"] = edited.encode()
    python(code.replace("8.0", "9.0") % "", fake_hub, tmp_path / "second")
    again = fake_hub.files["README.md"].decode()
    assert "license: cc-by-4.0" in again and "- mine" in again and "license: mit" not in again
    assert "My own words." in again and again.count("## Recorded in my garden") == 1
    assert "from 1 to 9 in training" in again and "1 to 8" not in again
    assert "private.txt" not in fake_hub.files

    # An edit inside the generated part is kept as well.
    fake_hub.files["README.md"] = again.replace("from 1 to 9 in training", "from 1 to 9, roughly").encode()
    python(code.replace("8.0", "7.0") % "", fake_hub, tmp_path / "third")
    assert "from 1 to 9, roughly" in fake_hub.files["README.md"].decode()


CLI = """
import sys, wave
import numpy as np
from diffusers.commands.diffusers_cli import main
for model in ({folder!r}, REPO):
    sys.argv = ["diffusers-cli", "run", "--model", model, "--trust-remote-code", "--device-map", "cpu", "--seed", "0"]
    sys.argv += ["--dtype", "float32", "--output", {output!r}, "--sampling-rate", "16000", "--lora", {adapter!r}]
    sys.argv += ["--pipeline-kwargs", '{{"prompt": "rain", "audio_length_in_s": 0.5, "num_inference_steps": 2}}']
    main()
    with wave.open({output!r}) as file:
        print(file.getframerate(), file.getnchannels(), file.getnframes())
"""


@pytest.mark.slow
def test_diffusers_own_command_runs_local_and_pushed_models(fake_hub, embedded_folder, tmp_path):
    peft = pytest.importorskip("peft")
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]))
    pipe.save_lora_weights(tmp_path / "adapter", unet_lora_layers=peft.get_peft_model_state_dict(pipe.unet))
    python(f"SoundCTMPipeline.from_pretrained({str(embedded_folder)!r}).push_to_hub(REPO)", fake_hub, tmp_path)
    adapter = json.dumps({"lora_id": str(tmp_path / "adapter"), "lora_scale": 0.5})
    code = CLI.format(folder=str(embedded_folder), output=str(tmp_path / "rain.wav"), adapter=adapter)
    result = python(code, fake_hub, tmp_path / "other", HF_HUB_DISABLE_TELEMETRY="1")
    assert result.stdout.count("16000 1 8000") == 2


def test_unknown_repo_is_named(fake_hub, tmp_path):
    code = """
for arguments in ({}, {"local_files_only": True}):
    try:
        SoundCTMPipeline.from_pretrained(REPO, **arguments)
    except OSError as error:
        print(error)
"""
    lines = python(code, fake_hub, tmp_path).stdout.splitlines()
    assert [line.startswith(f"'{REPO}' is neither a folder") for line in lines] == [True, True]


def test_wanted_files_take_one_set_of_weights():
    files = [
        "model_index.json",
        "README.md",
        "pipeline.py",
        "unet/config.json",
        "unet/diffusers_soundctm.py",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "vae/config.json",
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors.index.json",
        "tokenizer/vocab.txt",
        "other/config.json",
    ]
    names = ["unet", "vae", "tokenizer"]
    plain, half = wanted_files(files, names), wanted_files(files, names, "fp16")
    unet = {file for file in plain if file.startswith("unet/")}
    assert unet == {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    unet = {file for file in half if file.startswith("unet/")}
    assert unet == {"unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"}
    # A component without the variant comes with its plain weights.
    assert {file for file in half if file.startswith("vae/")} == {file for file in files if file.startswith("vae/")}
    # A component with nothing but a variant comes with that.
    files = ["vae/config.json", "vae/model.fp16.safetensors", "vae/model.int8.safetensors"]
    assert wanted_files(files, ["vae"]) == ["model_index.json", "vae/model.fp16.safetensors", "vae/config.json"]
    assert "tokenizer/vocab.txt" in half and "other/config.json" not in half and "README.md" not in half


def test_the_only_variant_of_a_repo_is_found():
    plain, half, other = (f"model{kind}.safetensors" for kind in ("", ".fp16", ".bf16-00001-of-00002"))
    assert hub.only_variant({"unet": [plain, half], "tokenizer": ["vocab.txt"]}) is None
    assert hub.only_variant({"unet": [half, other], "vae": [half], "vocoder": [plain]}) == "fp16"
    for files in ({"unet": [half, other]}, {"unet": [half], "vae": [other]}):
        with pytest.raises(ValueError, match=r"unet has .*fp16.*`variant=`"):
            hub.only_variant(files)


def test_parameters_are_counted_in_one_set_of_weights(tmp_path):
    import torch
    from safetensors.torch import save_file

    def write(name, size, dtype):
        save_file({"weight": torch.zeros(size, dtype=dtype)}, tmp_path / name)
        return (tmp_path / name).stat().st_size

    assert hub.count_parameters(tmp_path) == (0, 0)
    half = sum(write(f"model.fp16-0000{part}-of-00002.safetensors", 50, torch.float16) for part in (1, 2))
    write("model.int8.safetensors", 7, torch.int8)
    assert hub.count_parameters(tmp_path) == (100, half)
    plain = sum(write(f"model-0000{part}-of-00002.safetensors", 50, torch.float32) for part in (1, 2))
    assert hub.count_parameters(tmp_path) == (100, plain)


def test_without_the_package_remote_code_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers_soundctm", None)
    for code in (REMOTE_CODE, HANDLER):
        with pytest.raises(ModuleNotFoundError, match="not on PyPI"):
            exec(code, {})


def test_the_endpoint_handler_answers_with_a_wav(embedded_folder):
    import io

    import soundfile

    scope: dict = {}
    exec(HANDLER, scope)
    handler = scope["EndpointHandler"](str(embedded_folder))
    answer = handler({"inputs": "rain", "parameters": {"num_inference_steps": 2, "seed": 3, "audio_length_in_s": 0.5}})
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(answer["audio"])))
    assert (rate, answer["sampling_rate"], sound.shape) == (16000, 16000, (8000,))


def test_the_endpoint_handler_scales_loud_sounds_down():
    import io
    from types import SimpleNamespace

    import numpy as np
    import soundfile

    class Loud:
        sampling_rate = 16000

        def __call__(self, prompt):
            return SimpleNamespace(audios=np.array([[[0.5, -2.0, 1.0]]], np.float32))

    scope: dict = {}
    exec(HANDLER, scope)
    handler = object.__new__(scope["EndpointHandler"])
    handler.pipe = Loud()
    sound, _ = soundfile.read(io.BytesIO(base64.b64decode(handler({"inputs": "rain"})["audio"])))
    np.testing.assert_allclose(sound, [0.25, -1, 0.5], atol=1e-4)


def test_card_tells_of_the_run_and_names_the_base():
    facts = {"teacher": "cvssp/audioldm-s-full-v2", "steps": "100 × 8"}
    audio = {"num_channels": 2, "sampling_rate": 44100, "guidance_scale_range": (2.0, 5.5)}
    card = hub.model_card(REPO, **audio, license="cc-by-4.0", facts=facts, sounds=["samples/0-1steps.wav"])
    assert "(2, samples) at 44100 Hz" in card and "from 2 to 5.5 in training" in card
    assert "base_model: cvssp/audioldm-s-full-v2" in card and "| steps | 100 × 8 |" in card
    assert f"{REPO}/resolve/main/samples/0-1steps.wav" in card
    adapter = hub.model_card(REPO, **audio, adapter_of="cvssp/audioldm-s-full-v2", branch_init="zero")
    assert "base_model_relation: adapter" in adapter and f'load_lora_weights("{REPO}")' in adapter
    assert "base_model" not in hub.model_card(REPO, **audio, facts={"teacher": "teacher"})


TRAIN = """
import runpy, sys
sys.argv = ["train_ctm.py", *{argv}]
runpy.run_path({script}, run_name="__main__")
"""


@pytest.mark.slow
def test_training_ends_on_the_hub(fake_hub, tiny_pipeline, tmp_path):
    """Trained, pushed, and loaded back by its id in a fresh process; and a failed upload that is tried again."""
    from tiny_teachers import make_teacher

    make_teacher("audioldm", tmp_path / "teacher", tiny_pipeline)
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    write_sounds(tmp_path / "sounds")
    arguments = {
        "teacher_model": tmp_path / "teacher",
        "dataset_name": tmp_path / "sounds",
        "num_samples": 5120,
        "max_train_steps": 2,
        "train_batch_size": 2,
        "num_scales": 3,
        "mixed_precision": "no",
        "validation_prompts": "rain",
        "validation_steps": 2,
        "hub_model_id": REPO,
    }

    def train(output_dir):
        argv = [f"--{name}={value}" for name, value in {**arguments, "output_dir": output_dir}.items()]
        script = str(Path(__file__).parents[2] / "training" / "train_ctm.py")
        return TRAIN.format(argv=[*argv, "--push_to_hub"], script=repr(script))

    fake_hub.full = True
    failed = python(train(tmp_path / "failed"), fake_hub, tmp_path / "home", expected=1)
    assert f"hf upload {REPO} {tmp_path / 'failed' / 'hub'} ." in failed.stderr and "no more storage" in failed.stderr
    fake_hub.full = False
    retry = "from huggingface_hub import upload_folder; import sys\n"
    retry += f"upload_folder(repo_id=REPO, folder_path={str(tmp_path / 'failed' / 'hub')!r})\n"
    python(retry + "try_out(SoundCTMPipeline.from_pretrained(REPO))", fake_hub, tmp_path / "home")

    fake_hub.files.clear()
    assert "Uploaded: " in python(train(tmp_path / "run"), fake_hub, tmp_path / "home2").stdout
    assert not (tmp_path / "run" / "hub").exists()
    card = fake_hub.files["README.md"].decode()
    assert "license: cc-by-nc-4.0" in card and "| teacher | teacher |" in card and "samples/0-16steps.wav" in card
    assert str(tmp_path) not in card
    assert {"handler.py", "pipeline.py", "samples/0-1steps.wav"} <= fake_hub.files.keys()
    loaded = python("try_out(SoundCTMPipeline.from_pretrained(REPO))", fake_hub, tmp_path / "home3")
    assert f"{REPO} (1, 1, " in loaded.stdout


def write_sounds(folder: Path) -> None:
    import numpy as np
    import soundfile

    folder.mkdir()
    lines = ["file_name,caption"]
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(5120), 16000)
        lines.append(f"{number}.wav,a dog barks")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_publishing_is_checked_before_training(monkeypatch, tmp_path):
    from types import SimpleNamespace

    from diffusers_soundctm.training import publish

    monkeypatch.setattr(publish, "get_token", lambda: None)
    args = {"push_to_hub": True, "hub_model_id": "a/b/c", "hub_token": None, "hub_license": None}
    args |= {"teacher_model": str(tmp_path), "output_dir": "out"}
    problems = publish.publishing_problems(SimpleNamespace(**args))
    assert [any(word in problem for problem in problems) for word in ("malformed", "token", "license")] == [True] * 3
    args |= {"hub_model_id": "a/b", "hub_token": "hf_x", "hub_license": "mit"}
    assert publish.publishing_problems(SimpleNamespace(**args)) == []
