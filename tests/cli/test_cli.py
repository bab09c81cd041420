"""The `soundctm` command, mostly in this process, once in its own."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import soundfile

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.audio import read_audio, read_tags, write_audio
from diffusers_soundctm.cli import main
from diffusers_soundctm.cli.info import facts


def settings_of(path):
    """Settings in a file, but for its level: the tiny model's random vocoder exceeds full scale by chance."""
    settings = json.loads(read_tags(path)["comment"])
    return {name: value for name, value in settings.items() if name not in ("turned_down_db", "measured_loudness")}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fails(capsys, *arguments):
    """The one line on standard error of a command that ends with exit code 2 and writes nothing else."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_generate_writes_a_sound_with_its_settings(extension, tmp_path, capsys):
    path = tmp_path / f"rain.{extension}"
    arguments = "--steps 2 --nu 1.5 --omega 3 --gamma 0.2 --seed 7 --duration 0.7 --negative-prompt wind"
    assert main(["generate", "rain on a tin roof", "-o", str(path), *arguments.split()]) == 0
    samples, rate = soundfile.read(path)
    assert (rate, samples.shape) == (16000, (11200,)) and abs(samples).max() <= 1
    settings = settings_of(path)
    assert len(settings.pop("noise")) == 16
    assert settings == {
        "prompt": "rain on a tin roof",
        "negative_prompt": "wind",
        "model": "embedded",
        "seed": 7,
        "steps": 2,
        "nu": 1.5,
        "omega": 3.0,
        "gamma": 0.2,
        "duration": 0.7,
        "dtype": "float32",
    }
    assert read_tags(path)["title"] == "rain on a tin roof"
    said = capsys.readouterr().out
    assert str(path) in said and "0.70 s" in said and "real time" in said
    assert names(tmp_path) == [path.name]


def test_the_file_tells_how_to_make_it_again(tmp_path):
    first, again = tmp_path / "first.wav", tmp_path / "again.wav"
    main(["generate", "rain", "-o", str(first), "--duration", "0.5"])
    main(["generate", "rain", "-o", str(again), "--duration", "0.5", "--seed", str(settings_of(first)["seed"])])
    assert soundfile.read(first)[0].tolist() == soundfile.read(again)[0].tolist()


def test_refine_makes_that_sound_in_more_steps(tmp_path, capsys):
    draft, final, direct = tmp_path / "rain.flac", tmp_path / "rain-refined.flac", tmp_path / "direct.flac"
    options = ["--nu", "1.5", "--omega", "3", "--negative-prompt", "wind", "--duration", "0.5", "--seed", "3"]
    main(["generate", "rain", "-o", str(draft), *options])
    assert main(["refine", str(draft), "--steps", "4"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert str(final) in said and 0 <= float(said.split("drift ")[1].split()[0]) <= 2
    assert settings_of(final) == settings_of(draft) | {"steps": 4}
    main(["generate", "rain", "-o", str(direct), *options, "--steps", "4"])
    assert soundfile.read(final)[0].tolist() == soundfile.read(direct)[0].tolist()
    # In as many steps, nothing drifts.
    main(["refine", str(draft), "--steps", "1", "-o", str(tmp_path / "same.wav")])
    assert float(capsys.readouterr().out.split("drift ")[1].split()[0]) < 0.001


@pytest.mark.parametrize("seconds", ["0.05", "0.5"])
def test_refine_writes_what_it_cannot_compare(seconds, tmp_path, capsys):
    draft, final = tmp_path / "rain.wav", tmp_path / "rain-refined.wav"
    main(["generate", "rain", "-o", str(draft), "--duration", seconds, "--seed", "3"])
    write_audio(draft, 0 * read_audio(draft)[0], 16000, read_tags(draft))
    assert main(["refine", str(draft), "--steps", "2"]) == 0
    assert "too short or too quiet" in capsys.readouterr().out
    assert settings_of(final) == settings_of(draft) | {"steps": 2}


def test_settings_too_long_for_a_wav_file_are_named(tmp_path, capsys, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    prompt, wav, flac = 300 * "雨", tmp_path / "rain.wav", tmp_path / "rain.flac"
    options = ["--duration", "0.5", "--negative-prompt", 300 * "風", "--nu", "1.5"]
    assert main(["generate", prompt, "-o", str(flac), *options]) == 0
    assert settings_of(flac)["prompt"] == prompt and "`comment`" not in caplog.text
    assert main(["generate", prompt, "-o", str(wav), *options]) == 0
    assert "`comment`" in caplog.text and ".flac" in caplog.text
    capsys.readouterr()
    assert "metadata" in fails(capsys, "refine", wav)


@pytest.mark.parametrize("change", [{"noise": "0" * 16}, {"seed": 4}, {"duration": 1.0}])
def test_refine_refuses_other_noise(change, tmp_path, capsys):
    draft = tmp_path / "rain.wav"
    main(["generate", "rain", "-o", str(draft), "--duration", "0.5", "--seed", "3"])
    settings = json.dumps(settings_of(draft) | change)
    samples, rate = read_audio(draft)
    write_audio(draft, samples, rate, {"comment": settings})
    capsys.readouterr()
    assert "gives the noise" in fails(capsys, "refine", draft)
    assert names(tmp_path) == ["rain.wav"]


def test_refine_names_what_it_cannot_use(tmp_path, capsys):
    draft, plain, odd = tmp_path / "rain.wav", tmp_path / "plain.wav", tmp_path / "odd.wav"
    odd.touch()
    main(["generate", "rain", "-o", str(draft), "--duration", "0.5", "--gamma", "0.5"])
    write_audio(plain, read_audio(draft)[0], 16000)
    capsys.readouterr()
    before = names(tmp_path)
    assert "--gamma 0" in fails(capsys, "refine", draft)
    assert "metadata" in fails(capsys, "refine", plain)
    assert "missing.wav" in fails(capsys, "refine", tmp_path / "missing.wav")
    for name, value in (("duration", "long"), ("dtype", "int8"), ("model", ["a"]), ("seed", True)):
        write_audio(odd, *read_audio(draft), {"comment": json.dumps(settings_of(draft) | {"gamma": 0, name: value})})
        assert f"{name} = {value!r}" in fails(capsys, "refine", odd)
    assert "--steps" in fails(capsys, "refine", draft, "--steps", "0")
    assert "exists" in fails(capsys, "refine", draft, "-o", plain)
    assert names(tmp_path) == before


def test_refine_loads_the_model_that_a_file_names_only_when_told(embedded_folder, tmp_path, capsys, monkeypatch):
    draft = tmp_path / "rain.wav"
    main(["generate", "rain", "-o", str(draft), "--duration", "0.5", "--model", str(embedded_folder)])
    capsys.readouterr()
    monkeypatch.setattr("diffusers_soundctm.hub.download_model", lambda *_: pytest.fail("the model is looked for"))
    assert f"--model {embedded_folder}" in fails(capsys, "refine", draft)
    samples, rate = read_audio(draft)
    write_audio(draft, samples, rate, {"comment": json.dumps(settings_of(draft) | {"model": "someone/else"})})
    assert "someone/else" in fails(capsys, "refine", draft)
    assert main(["refine", str(draft), "--model", str(embedded_folder), "--steps", "2"]) == 0
    said = capsys.readouterr().out
    assert "'someone/else'" in said and str(embedded_folder) in said


def test_loudness_is_what_was_asked_for(tmp_path):
    import pyloudnorm

    path = tmp_path / "rain.wav"
    assert main(["generate", "rain", "-o", str(path), "--loudness", "-35", "--seed", "0"]) == 0
    samples, rate = soundfile.read(path)
    assert pyloudnorm.Meter(rate).integrated_loudness(samples) == pytest.approx(-35, abs=0.1)
    assert settings_of(path)["loudness"] == -35


def test_several_sounds_are_numbered_and_each_can_be_made_alone(tmp_path):
    (tmp_path / "prompts.txt").write_text("rain on a tin roof\n\n  a dog barks  \n")
    output, options = tmp_path / "out.wav", ["--duration", "0.5"]
    file = str(tmp_path / "prompts.txt")
    assert main(["generate", "--prompts", file, "--num", "2", "--seed", "5", "-o", str(output), *options]) == 0
    paths = [tmp_path / f"out-{i}.wav" for i in (1, 2, 3, 4)]
    assert [settings_of(path)["seed"] for path in paths] == [5, 6, 7, 8]
    assert [settings_of(path)["prompt"] for path in paths] == ["rain on a tin roof"] * 2 + ["a dog barks"] * 2
    main(["generate", "a dog barks", "--seed", "7", "-o", str(output), *options])
    assert soundfile.read(output)[0].tolist() == soundfile.read(paths[2])[0].tolist()


def test_existing_files_are_kept_unless_forced(tmp_path, capsys):
    path = tmp_path / "rain.wav"
    path.write_bytes(b"precious")
    assert "--force" in fails(capsys, "generate", "rain", "-o", path)
    assert path.read_bytes() == b"precious"
    assert main(["generate", "rain", "-o", str(path), "--force", "--duration", "0.5"]) == 0
    assert soundfile.info(path).frames == 8000


def test_failure_while_generating_leaves_the_old_file(tmp_path, capsys):
    path = tmp_path / "rain.wav"
    path.write_bytes(b"precious")
    assert "gamma" in fails(capsys, "generate", "rain", "-o", path, "--force", "--gamma", "2")
    assert path.read_bytes() == b"precious" and names(tmp_path) == ["rain.wav"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--prompts"),
        (["rain", "--prompts", "prompts.txt"], "--prompts"),
        (["--prompts", "missing.txt"], "missing.txt"),
        (["--prompts", "empty.txt"], "empty.txt"),
        (["--prompts", "binary.txt"], "UTF-8"),
        (["rain", "-o", "rain.mp3"], ".wav"),
        (["rain", "-o", "missing/rain.wav"], "does not exist"),
        (["rain", "-o", "folder.wav"], "exists"),
        ([301 * "a"], "at most 300"),
        ([" "], "The prompt is empty"),
        (["rain", "--num", "0"], "--num"),
        (["rain", "--seed", "-1"], "--seed"),
        (["rain", "--steps", "0"], "--steps"),
        (["rain", "--steps", "one"], "--steps"),
        (["rain", "--duration", "0"], "--duration"),
        (["rain", "--duration", "31"], "at most 30 seconds"),
        (["rain", "--nu", "nan"], "nu"),
        (["rain", "--dtype", "int8"], "--dtype"),
        (["rain", "--loudness", "3"], "loudness"),
        (["rain", "--device", "toaster"], "--device toaster"),
        (["rain", "--model", "no/such/folder"], "no/such/folder"),
        (["rain", "--model", "folder.wav"], "model_index.json"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("rain\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.wav").mkdir()
    before = names(tmp_path)
    assert named in fails(capsys, "generate", *arguments)
    assert names(tmp_path) == before


def test_missing_embedded_weights_are_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", tmp_path)
    assert "Reinstall" in fails(capsys, "generate", "rain", "-o", tmp_path / "rain.wav")
    assert "Reinstall" in fails(capsys, "info")


def test_info_says_what_the_model_is(embedded_folder, capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for fact in ("CTMUNet2DConditionModel", "BertModel", "16000 Hz", "0.002 to 80", "2 to 5", "M parameters"):
        assert fact in said
    assert main(["info", "--model", str(embedded_folder)]) == 0
    assert str(embedded_folder) in capsys.readouterr().out
    assert "no/folder" in fails(capsys, "info", "--model", "no/folder/here")


def edited(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edited(f / "model_index.json", unet=["diffusers_soundctm", "CTMNoSuchModel"]), "CTMNoSuchModel"),
        (lambda f: edited(f / "model_index.json", guidance_scale_range=[1]), "missing or wrong value"),
        (lambda f: edited(f / "scheduler" / "scheduler_config.json", sigma_min=None), "missing or wrong value"),
        (lambda f: (f / "scheduler" / "scheduler_config.json").unlink(), "lacks scheduler_config.json"),
        (
            lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "missing-00002.safetensors"}}'
            ),
            "lacks missing-00002.safetensors",
        ),
    ],
)
def test_info_finds_damage(embedded_folder, tmp_path, capsys, damage, message):
    folder = shutil.copytree(embedded_folder, tmp_path / "model")
    damage(folder)
    assert message in fails(capsys, "info", "--model", str(folder))


def test_info_counts_a_model_once_whatever_its_variants(embedded_folder, tmp_path, capsys):
    folder = shutil.copytree(embedded_folder, tmp_path / "model")
    assert main(["info", "--model", str(folder)]) == 0
    said = capsys.readouterr().out
    for weights in list(folder.rglob("*.safetensors")):
        shutil.copy(weights, weights.with_suffix(".fp16.safetensors"))
    assert main(["info", "--model", str(folder)]) == 0
    assert capsys.readouterr().out == said


def test_info_knows_stereo_models(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"sampling_rate": 44100, "audio_channels": 2}')
    assert facts(tmp_path) == {"audio": "stereo, 44100 Hz, waveform autoencoder"}


def test_as_a_module_in_its_own_process(embedded_folder, tmp_path):
    command = [sys.executable, "-m", "diffusers_soundctm", "generate", "rain", "--model", str(embedded_folder)]
    result = subprocess.run(
        [*command, "-o", "rain.wav", "--duration", "0.5"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("rain.wav: 0.50 s") and result.stderr == ""
    assert names(tmp_path) == ["rain.wav"]


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_obstacle(embedded_folder, tmp_path):
    """Nothing is written to the caches of huggingface_hub; /proc refuses even the superuser."""
    command = [sys.executable, "-m", "diffusers_soundctm", "generate", "rain", "--model", str(embedded_folder)]
    environment = {**os.environ, "HF_HOME": "/proc/home", "XDG_CACHE_HOME": "/proc/cache"}
    result = subprocess.run(
        [*command, "-o", "rain.wav", "--duration", "0.5"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == ["rain.wav"] and "Traceback" not in result.stderr


def test_help_shows_an_example_without_importing_torch():
    code = "import sys; from diffusers_soundctm.cli import main\ntry: main(['generate', '--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "example: soundctm generate" in result.stdout and result.stdout.strip().endswith("False")


# Names, links and clocks


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_name_that_the_terminal_cannot_show_is_printed_with_question_marks(encoding, monkeypatch, tmp_path):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding, write_through=True))
    path = tmp_path / "雨.wav"
    assert main(["generate", "rain", "-o", str(path)]) == 0
    assert path.is_file() and b"?.wav: " in shown.getvalue()


def test_a_prompt_that_is_not_unicode_is_named(tmp_path, capsys):
    assert "is 'rain \\udce9', which is not valid Unicode" in fails(
        capsys, "generate", "rain \udce9", "-o", tmp_path / "a.wav"
    )
    assert not names(tmp_path)


def test_links_are_followed_and_dangling_ones_count_as_existing(tmp_path, capsys):
    (tmp_path / "target.wav").write_bytes(b"")
    (tmp_path / "link.wav").symlink_to("target.wav")
    (tmp_path / "dangling.wav").symlink_to("absent/a.wav")
    (tmp_path / "device.wav").symlink_to("/dev/null")
    for name in ("link", "dangling"):
        assert fails(capsys, "generate", "rain", "-o", tmp_path / f"{name}.wav").startswith("soundctm: error: --output")
    assert "folder does not exist" in fails(capsys, "generate", "rain", "-o", tmp_path / "dangling.wav", "--force")
    assert "not a regular file" in fails(capsys, "generate", "rain", "-o", tmp_path / "device.wav", "--force")
    assert main(["generate", "rain", "-o", str(tmp_path / "link.wav"), "--force"]) == 0
    assert (tmp_path / "link.wav").is_symlink() and read_audio(tmp_path / "target.wav")[1] == 16000


def test_a_name_of_250_bytes_is_written(tmp_path):
    path = tmp_path / f"{'é' * 123}.wav"
    assert main(["generate", "rain", "-o", str(path)]) == 0
    assert names(tmp_path) == [path.name]


def test_a_standing_clock_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("time.perf_counter", lambda: 1.0)
    assert main(["generate", "rain", "-o", str(tmp_path / "a.wav")]) == 0
    assert "0.00 s, seed" in capsys.readouterr().out


def test_the_file_says_by_how_much_the_sound_was_turned_down(tmp_path, monkeypatch, capsys):
    decode = SoundCTMPipeline.mel_spectrogram_to_waveform

    def twice_full_scale(pipe, mel):
        waveform = decode(pipe, mel)
        return 2 * waveform / waveform.abs().amax(dim=-1, keepdim=True)

    monkeypatch.setattr(SoundCTMPipeline, "mel_spectrogram_to_waveform", twice_full_scale)
    path = tmp_path / "a.wav"
    assert main(["generate", "rain", "-o", str(path)]) == 0
    assert json.loads(read_tags(path)["comment"])["turned_down_db"] == 6.0
    assert "turned down by 6.0 dB" in capsys.readouterr().out
