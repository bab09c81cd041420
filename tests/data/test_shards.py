"""Precomputed shards: the same batches as from memory, whatever happens in between."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import SAMPLES, assert_same_batch, batch_of, rewrite, settings_of, write_tars
from safetensors.torch import load_file

from diffusers_soundctm.data.shards import ShardedData, ShardEncoder, count_skipped
from diffusers_soundctm.data.sources import distillation_data
from diffusers_soundctm.distillation import load_teacher
from runs import distil, load
from tiny_teachers import make_teacher


def sharded_data(folder, teacher):
    return ShardedData(folder, teacher.encoders, teacher.network.config.in_channels)


def precompute(folder, **arguments):
    argv = [f"--{name}={value}" for name, value in {"num_samples": SAMPLES, "shard_size": 3, **arguments}.items()]
    load("precompute").main([*argv, f"--output_dir={folder}"])
    return folder


def test_shards_give_the_batches_of_memory(training_inputs, teacher_folder, tmp_path):
    teacher = load_teacher(teacher_folder)
    data = training_inputs["dataset_name"]
    folder = precompute(tmp_path / "latents", dataset_name=data, teacher_model=teacher_folder)
    assert sorted(path.name for path in folder.glob("shard-*")) == [f"shard-0000{k}.safetensors" for k in range(3)]
    sharded = sharded_data(folder, teacher)
    memory = distillation_data(settings_of(data, tmp_path / "cache"), teacher.encoders, 8)
    assert (len(sharded), sharded.latent_shape) == (7, memory.latent_shape)
    # Both draw one number for the caption and one for the dropout, so the same prompts come out.
    assert_same_batch(batch_of(sharded), batch_of(memory))
    assert_same_batch(batch_of(sharded, dropout=0.0), batch_of(memory, dropout=0.0))


def test_a_stopped_precomputation_goes_on(training_inputs, audioldm, tmp_path, monkeypatch):
    arguments = {"dataset_name": training_inputs["dataset_name"], "teacher_model": audioldm}
    whole = precompute(tmp_path / "whole", **arguments)
    encode, calls = ShardEncoder.encode, []

    def encode_two(self, rows, first_row):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, rows, first_row)

    monkeypatch.setattr(ShardEncoder, "encode", encode_two)
    with pytest.raises(KeyboardInterrupt):
        precompute(tmp_path / "parts", **arguments)
    assert not (tmp_path / "parts" / "latents.json").exists()
    precompute(tmp_path / "parts", **arguments)
    assert calls == [3, 3, 1, 1]  # only the missing one again
    for file in whole.glob("*.safetensors"):
        theirs = load_file(tmp_path / "parts" / file.name)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_file(file).items())
    with pytest.raises(ValueError, match="is complete"):
        precompute(whole, **arguments)


@pytest.mark.parametrize(
    "changed, complaint",
    [
        ({"shard_size": 2}, "shard_size was 3, now 2"),
        ({"max_train_samples": 4}, "max_train_samples was None, now 4"),
        ({"sampling_rate": 44100}, "not the teacher's 16000 Hz"),
        ({"vae": "other"}, "vae was None, now .*; weights was"),
    ],
)
def test_a_stopped_precomputation_goes_on_with_its_own_settings_only(
    training_inputs, audioldm, tmp_path, changed, complaint
):
    arguments = {"dataset_name": training_inputs["dataset_name"], "teacher_model": audioldm}
    folder = precompute(tmp_path / "latents", **arguments)
    (folder / "latents.json").unlink()
    (folder / "shard-00001.safetensors").unlink()
    if "vae" in changed:
        vae = load_teacher(audioldm).components["vae"]
        next(vae.parameters()).data += 0.1
        vae.save_pretrained(tmp_path / "other")
        changed = {"vae": tmp_path / "other"}
    with pytest.raises(ValueError, match=complaint):
        precompute(folder, **{**arguments, **changed})
    assert not (folder / "shard-00001.safetensors").exists()
    precompute(folder, **arguments, batch_size=2)
    (folder / "latents.json").unlink()
    (folder / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"shards but no settings\.json"):
        precompute(folder, **arguments)


def test_training_reads_precomputed_shards(training_inputs, audioldm, tmp_path):
    data = training_inputs["dataset_name"]
    latents = precompute(tmp_path / "latents", dataset_name=data, teacher_model=audioldm)
    run = {"teacher_model": audioldm, "dataset_name": latents}
    assert json.loads((distil(tmp_path / "run", **run) / "training.json").read_text())["clips"] == 7
    with pytest.raises(ValueError, match="cannot be mixed"):
        distil(tmp_path / "mixed", **run, mix_rate=0.5)
    with pytest.raises(ValueError, match=r"is not the 5120 of"):
        distil(tmp_path / "length", **run, num_samples=1280)
    for limited in (run, {**run, "dataset_name": data, "streaming": True}):
        with pytest.raises(ValueError, match=r"--max_train_samples 4 limits neither a stream nor"):
            distil(tmp_path / "limited", **limited, max_train_samples=4)


def test_shards_of_another_teacher_are_refused(training_inputs, audioldm, tmp_path, tiny_pipeline):
    data = training_inputs["dataset_name"]
    latents = precompute(tmp_path / "latents", dataset_name=data, teacher_model=audioldm)
    make_teacher("tango", tmp_path / "tango", tiny_pipeline)
    with pytest.raises(ValueError, match="was precomputed with"):
        sharded_data(latents, load_teacher(tmp_path / "tango"))


def write_clips(folder, captions, silent=()):
    """An audio folder with these captions, and silence in the clips `silent`."""
    import soundfile

    folder.mkdir()
    lines = ["file_name,caption"]
    for number, caption in enumerate(captions):
        waveform = (
            np.zeros(SAMPLES) if number in silent else 0.1 * np.random.default_rng(number).standard_normal(SAMPLES)
        )
        soundfile.write(folder / f"{number}.flac", waveform, 16000)
        lines.append(f'{number}.flac,"{caption}"')
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_skipped_clips_are_counted_over_shards_and_kept_with_them(audioldm, tmp_path):
    data = write_clips(tmp_path / "clips", ["rain"] * 5 + [" "], silent=[1])
    folder = precompute(tmp_path / "latents", dataset_name=data, teacher_model=audioldm)
    index = json.loads((folder / "latents.json").read_text())
    assert (index["seen"], index["shards"]) == (6, [2, 2])
    first, second = index["skipped"]
    assert first.endswith("1.flac is silent")
    assert "5.flac has ' ' in column 'caption'; give every clip a non-empty string" in second
    assert count_skipped(folder).seen == 6


def test_a_restart_does_not_undo_the_one_percent_rule(audioldm, tmp_path, monkeypatch):
    data = write_clips(tmp_path / "clips", ["rain"] * 9, silent=[0, 3, 6])
    encode = ShardEncoder.encode

    def stopped_after_one(self, rows, first_row):
        if first_row not in done:
            done.append(first_row)
            raise KeyboardInterrupt
        return encode(self, rows, first_row)

    done = []
    monkeypatch.setattr(ShardEncoder, "encode", stopped_after_one)
    arguments = {"dataset_name": data, "teacher_model": audioldm}
    for _ in range(3):  # every run writes one shard with one bad clip
        with pytest.raises(KeyboardInterrupt):
            precompute(tmp_path / "latents", **arguments)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"3 of 9 clips .*0\.flac is silent.*3\.flac.*6\.flac.*Repair or"):
            precompute(tmp_path / "latents", **arguments)
    assert count_skipped(tmp_path / "latents").seen == 6


def test_shards_of_a_data_set_that_changed_are_not_mixed(audioldm, tmp_path, monkeypatch):
    data = write_clips(tmp_path / "clips", ["rain"] * 4)
    arguments = {"dataset_name": data, "teacher_model": audioldm}
    monkeypatch.setattr("diffusers_soundctm.data.shards.ShardEncoder.prompts", lambda *_: 1 / 0)
    for _ in range(2):  # the output in the folder of the data set does not count as a change
        with pytest.raises(ZeroDivisionError):
            precompute(data / "latents", **arguments)
    (data / "metadata.csv").write_text((data / "metadata.csv").read_text().replace("rain", "wind"))
    with pytest.raises(ValueError, match="was begun with other settings: data was"):
        precompute(data / "latents", **arguments)


def test_a_data_set_without_a_usable_clip_is_refused(audioldm, tmp_path):
    data = write_clips(tmp_path / "clips", ["rain"] * 2, silent=[0, 1])
    with pytest.raises(ValueError, match=r"no clip that can be used: .*0\.flac is silent"):
        precompute(tmp_path / "latents", dataset_name=data, teacher_model=audioldm)
    assert not (tmp_path / "latents" / "latents.json").exists()


def test_bad_members_of_tars_are_skipped_and_kept_with_the_shards(audioldm, tmp_path):
    tars = write_tars(tmp_path)
    rewrite(Path(tars[0]), lambda name, old: b"{not json" if name == "01.json" else old)
    rewrite(Path(tars[1]), lambda name, old: b"no audio" if name == "12.flac" else old)
    argv = ["--dataset_name=webdataset", "--data_files", *tars, "--audio_column=flac", "--caption_column=json.caption",
            f"--teacher_model={audioldm}", f"--num_samples={SAMPLES}", "--shard_size=4",
            f"--output_dir={tmp_path / 'latents'}"]  # fmt: skip
    load("precompute").main(argv)
    index = json.loads((tmp_path / "latents" / "latents.json").read_text())
    assert (index["seen"], index["shards"]) == (6, [3, 1])
    assert [reason.split(" ")[0] for reason in index["skipped"]] == [f"{tars[0]}/01.flac", f"{tars[1]}/12.flac"]
    assert "damaged member .json" in index["skipped"][0] and "cannot be decoded" in index["skipped"][1]


def test_a_dropped_caption_is_the_empty_prompt_of_its_guidance(training_inputs, tiny_pipeline, tmp_path):
    """LongCat's empty prompt has as many tokens as the prompt, wherever the batch comes from."""
    make_teacher("longcat", tmp_path / "longcat", tiny_pipeline)
    teacher, name = load_teacher(tmp_path / "longcat"), training_inputs["dataset_name"]
    settings = replace(settings_of(name, tmp_path / "cache"), num_samples=1600)
    folder = precompute(tmp_path / "latents", dataset_name=name, teacher_model=tmp_path / "longcat", num_samples=1600)
    for data in (
        distillation_data(settings, teacher.encoders, 4),
        distillation_data(replace(settings, mix_rate=0.5), teacher.encoders, 4),
        ShardedData(folder, teacher.encoders, 4),
    ):
        _, kept, guided = batch_of(data, dropout=0.0)
        _, dropped, pairs = batch_of(data, dropout=1.0)
        mask = kept["encoder_attention_mask"]
        assert mask.sum(1).min() > 1 and kept["encoder_hidden_states"].abs().max() > 0
        for name, value in dropped.items():
            torch.testing.assert_close(value, guided[name].chunk(2)[1])
            torch.testing.assert_close(pairs[name], torch.cat([value, value]))
        assert torch.equal(dropped["encoder_attention_mask"], mask)
