"""Checkpoints by Hub id, with the real client against the stand-in for the Hub of fake_hub.py."""

import released

import golden
from fake_hub import REPO, python


def test_command_with_a_hub_id(fake_hub, unet_release, tmp_path):
    fake_hub.files = {
        str(file.relative_to(unet_release)): file.read_bytes() for file in unet_release.rglob("*") if file.is_file()
    }
    fake_hub.files["README.md"] = b"# SoundCTM"
    command = ["convert", "--from", "sony-unet", "--checkpoint", REPO, "--output", str(tmp_path / "model")]
    command += ["--text-encoder", str(released.TINY_T5), "--config", str(golden.FOLDER / "unet_config.json")]
    convert = f"from diffusers_soundctm.cli import main\nassert main({command!r}) == 0\n"
    # Without the Hub, from the files that the command left in the cache.
    options = {"release": "sony-unet", "text_encoder": str(released.TINY_T5), "original_config": command[-1]}
    load = f"""
folder = SoundCTMPipeline.from_pretrained({str(tmp_path / "model")!r})
for pipe in (folder, SoundCTMPipeline.from_single_file(REPO, **{options!r})):
    print(pipe("rain", audio_length_in_s=0.4).audios.shape)
"""
    python(convert, fake_hub, tmp_path / "home")
    # The online student beside the EMA is 3.5 GB at full size, and not needed.
    assert set(fake_hub.requested) == {"030000/ema_0.999_030000.pt", "audioldm-s-full.ckpt"}
    fake_hub.files = {}
    output = python(load, fake_hub, tmp_path / "home", HF_HUB_OFFLINE="1").stdout
    assert output.split("\n") == ["(1, 1, 6400)", "(1, 1, 6400)", ""]


def test_repo_that_is_not_there(fake_hub, tmp_path):
    command = ["convert", "--from", "sony-unet", "--checkpoint", REPO, "--output", str(tmp_path / "model")]
    code = f"from diffusers_soundctm.cli import main\nassert main({command!r}) == 2\n"
    error = python(code, fake_hub, tmp_path / "home").stderr
    assert f"{REPO!r} is neither a folder" in error and not (tmp_path / "model").exists()
