"""Precomputed shards, streams and mixtures: the same batches as from memory, whatever happens in between."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_soundctm.data import load_clips
from diffusers_soundctm.data.shards import ShardedData
from diffusers_soundctm.data.sources import distillation_data
from diffusers_soundctm.data.streams import MemorySource, SoundData, StreamSource, join_captions, mix, open_rows
from diffusers_soundctm.distillation import load_teacher
from runs import distil, load
from tiny_teachers import make_teacher

SAMPLES = 5120


@pytest.fixture(scope="module", params=["audioldm", "audioldm2"])
def teacher_folder(request, tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("teachers") / request.param
    make_teacher(request.param, folder, tiny_pipeline)
    return folder


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    make_teacher("audioldm", folder, tiny_pipeline)
    return folder


def precompute(folder, **arguments):
    argv = [f"--{name}={value}" for name, value in {"num_samples": SAMPLES, "shard_size": 3, **arguments}.items()]
    load("precompute").main([*argv, f"--output_dir={folder}"])
    return folder


def batch_of(data, dropout=0.3, seed=5):
    clips = torch.tensor([6, 0, 3, 3])
    return data.draw(clips, slice(1, 4), dropout, torch.Generator().manual_seed(seed))("cpu")


def assert_same_batch(batch, other):
    for mine, theirs in zip(batch, other, strict=True):
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
            continue
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if value is not None:
                torch.testing.assert_close(value, theirs[name], rtol=1e-2, atol=1e-2)


def args_of(**given):
    parse = load("train_ctm").parse_args
    given = {"output_dir": "unused", "teacher_model": "unused", "num_samples": SAMPLES, **given}
    args = parse([f"--{name}={value}" for name, value in given.items()])
    args.sampling_rate = 16000
    return args


def test_shards_give_the_batches_of_memory(training_inputs, teacher_folder, tmp_path):
    teacher = load_teacher(teacher_folder)
    data = training_inputs["dataset_name"]
    folder = precompute(tmp_path / "latents", dataset_name=data, teacher_model=teacher_folder)
    assert sorted(path.name for path in folder.glob("shard-*")) == [f"shard-0000{k}.safetensors" for k in range(3)]
    sharded = ShardedData(folder, teacher)
    memory = distillation_data(args_of(dataset_name=data, cache_dir=tmp_path / "cache"), teacher, "cpu")
    assert (len(sharded), sharded.latent_shape) == (7, memory.latent_shape)
    # Both draw one number for the wording and one for the dropout, so the same prompts come out.
    assert_same_batch(batch_of(sharded), batch_of(memory))
    assert_same_batch(batch_of(sharded, dropout=0.0), batch_of(memory, dropout=0.0))


def test_a_stopped_precomputation_goes_on(training_inputs, audioldm, tmp_path, monkeypatch):
    arguments = {"dataset_name": training_inputs["dataset_name"], "teacher_model": audioldm}
    whole = precompute(tmp_path / "whole", **arguments)
    from diffusers_soundctm.data import shards

    encode, calls = shards.Encoder.encode, []

    def encode_two(self, rows, dataset):
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, rows, dataset)

    monkeypatch.setattr(shards.Encoder, "encode", encode_two)
    with pytest.raises(KeyboardInterrupt):
        precompute(tmp_path / "parts", **arguments)
    assert not (tmp_path / "parts" / shards.INDEX).exists()
    precompute(tmp_path / "parts", **arguments)
    assert calls == [3, 3, 1, 1]  # only the missing one again
    for file in whole.glob("*.safetensors"):
        theirs = load_file(tmp_path / "parts" / file.name)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_file(file).items())
    with pytest.raises(SystemExit, match="is complete"):
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


def write_tars(root: Path) -> list[str]:
    import soundfile

    rng, names = np.random.default_rng(0), []
    for shard in range(2):
        names.append(str(root / f"clips-{shard}.tar"))
        with tarfile.open(names[-1], "w") as tar:
            for number in range(3):
                sound = io.BytesIO()
                soundfile.write(sound, 0.1 * rng.standard_normal(SAMPLES), 16000, format="FLAC")
                caption = json.dumps({"caption": f"sound {shard} {number}"}).encode()
                for suffix, content in (("flac", sound.getvalue()), ("json", caption)):
                    info = tarfile.TarInfo(f"{shard}{number}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return names


def test_training_reads_tar_shards_as_a_stream(audioldm, tmp_path):
    tars = write_tars(tmp_path)
    run = {
        "dataset_name": "webdataset",
        "data_files": tars,
        "audio_column": "flac",
        "caption_column": "json.caption",
        "teacher_model": audioldm,
        "num_samples": SAMPLES,
        "mix_rate": 0.5,
        "max_train_steps": 6,
        "checkpointing_steps": 3,
        "stream_buffer_size": 4,
    }
    whole = distil(tmp_path / "whole", **run)
    assert '"skipped_steps": 0' in (whole / "training.json").read_text()
    (tmp_path / "parts").mkdir()
    (whole / "checkpoint-3").rename(tmp_path / "parts" / "checkpoint-3")
    parts = distil(tmp_path / "parts", **run, resume_from_checkpoint="latest")
    weights = "unet/diffusion_pytorch_model.safetensors"
    theirs = load_file(parts / weights)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_file(whole / weights).items())


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
        ShardedData(latents, load_teacher(tmp_path / "tango"))


def test_a_stream_skips_to_where_it_was_and_passes_over_broken_rows():
    rows = [{"n": n} for n in range(5)]
    opened = []

    def open_epoch(epoch):
        opened.append(epoch)
        return iter(rows)

    def read(row):
        if row["n"] == 3:
            raise ValueError("is silent")
        return np.array([row["n"]]), [str(row["n"])]

    source = StreamSource(open_epoch, read)
    assert [int(sound[0]) for sound, _ in source.fetch([0, 1, 2, 3])] == [0, 1, 2, 4]
    assert [int(sound[0]) for sound, _ in source.fetch([4, 5, 6])] == [4, 0, 1]
    assert [int(sound[0]) for sound, _ in StreamSource(open_epoch, read).fetch([6, 5])] == [1, 0]
    assert opened == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="no rows"):
        StreamSource(lambda epoch: iter([]), read).fetch([0])

    def broken(row):
        raise ValueError("is silent")

    with pytest.raises(ValueError, match=r"100 clips of the stream.*is silent"):
        StreamSource(open_epoch, broken).fetch([0])


def test_streamed_rows_are_those_of_the_folder(training_inputs):
    folder = training_inputs["dataset_name"]
    captions = [row["caption"] for row in open_rows(folder, streaming=True)]
    assert captions == [row["caption"] for row in open_rows(folder)]
    assert [row["caption"] for row in open_rows(folder, streaming=True, skip=5)] == captions[5:]
    with pytest.raises(ValueError, match="'sound' is not in"):
        open_rows(folder, audio_column="sound", streaming=True)


def test_mixtures_have_both_captions_or_none(training_inputs, audioldm, monkeypatch):
    clips = load_clips(training_inputs["dataset_name"], num_samples=SAMPLES)
    teacher = load_teacher(audioldm)
    seen = []
    encode = teacher.conditioning.encode
    monkeypatch.setattr(
        teacher.conditioning, "encode", lambda prompts, *more: seen.append(prompts) or encode(prompts, *more)
    )
    data = SoundData(MemorySource(clips), teacher, SAMPLES, mix_rate=1.0)
    clean, condition, guided = data.draw(torch.arange(6), slice(0, 6), 0.4, torch.Generator().manual_seed(0))("cpu")
    assert clean.shape == (6, *data.latent_shape)
    *prompts, empty = seen[0]
    assert empty == "" and 0 < prompts.count("") < 6
    assert all(" and " in prompt for prompt in prompts if prompt)
    torch.testing.assert_close(guided["class_labels"][:6], condition["class_labels"])
    assert torch.equal(guided["class_labels"][6], guided["class_labels"][11])
    alone = SoundData(MemorySource(clips), teacher, SAMPLES).draw(
        torch.arange(6), slice(0, 6), 0.0, torch.Generator().manual_seed(0)
    )("cpu")[0]
    assert not torch.allclose(alone, clean)


def test_two_processes_share_a_mixed_batch(training_inputs, audioldm):
    clips = load_clips(training_inputs["dataset_name"], num_samples=SAMPLES)
    data = SoundData(MemorySource(clips), load_teacher(audioldm), SAMPLES, mix_rate=0.5)

    def draw(rows):
        return data.draw(torch.arange(4), rows, 0.1, torch.Generator().manual_seed(0))("cpu")[0]

    both = torch.cat([draw(slice(0, 2)), draw(slice(2, 4))])
    torch.testing.assert_close(both, draw(slice(0, 4)), rtol=1e-4, atol=1e-4)


def test_a_mixture_hears_both_at_any_level():
    time = torch.arange(16000) / 16000
    loud, quiet = 0.5 * torch.sin(440 * 6.283 * time), 0.005 * torch.sin(1000 * 6.283 * time)
    for ratio in (0.0, 0.5, 1.0):
        mixture = mix(loud, quiet, ratio)
        energy = torch.fft.rfft(mixture).abs()
        assert 0.3 < energy[1000] / energy[440] < 3
        assert mixture.abs().max() <= 1
    torch.testing.assert_close(mix(loud, torch.zeros_like(loud)).isfinite().all(), torch.tensor(True))


@pytest.mark.parametrize(
    "first, second, joined",
    [
        ("A dog barks.", "Rain falls.", "A dog barks and rain falls"),
        ("a train passes", "A horn blows", "a train passes and a horn blows"),
        ("wind", "I hear DJ noise", "wind and I hear DJ noise"),
        ("wind", "DJ plays", "wind and DJ plays"),
        ("birds and bees", "Rain", "birds and bees, and rain"),
    ],
)
def test_captions_are_joined_as_a_sentence(first, second, joined):
    assert join_captions(first, second) == joined
