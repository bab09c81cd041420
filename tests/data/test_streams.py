"""Streams and mixtures: the same batches as from memory, and what cannot be used is counted."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from batches import SAMPLES, rewrite, settings_of, write_tars
from safetensors.torch import load_file

from diffusers_soundctm.data import decode_audio, load_clips
from diffusers_soundctm.data.sources import distillation_data, source_fingerprint
from diffusers_soundctm.data.streams import (
    MemorySource,
    StreamSource,
    WaveformData,
    join_captions,
    merged,
    mix,
    open_rows,
)
from diffusers_soundctm.distillation import load_teacher
from runs import distil


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
    record = json.loads((whole / "training.json").read_text())
    assert (record["skipped_steps"], record["clips_skipped"]) == (0, []) and record["clips_read"] >= 6
    (tmp_path / "parts").mkdir()
    (whole / "checkpoint-3").rename(tmp_path / "parts" / "checkpoint-3")
    parts = distil(tmp_path / "parts", **run, resume_from_checkpoint="latest")
    weights = "unet/diffusion_pytorch_model.safetensors"
    theirs = load_file(parts / weights)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in load_file(whole / weights).items())


def numbers(source, positions):
    return [int(waveform[0]) for waveform, _ in source.fetch(positions)]


def counting(epoch):
    return iter([{"n": n} for n in range(epoch * 200, epoch * 200 + 200)])


def read_unless(*broken):
    def read(row):
        if row["n"] in broken:
            raise ValueError("is silent")
        return np.array([row["n"]]), [str(row["n"])]

    return read


def test_a_stream_goes_on_where_it_was_and_passes_over_broken_rows():
    source = StreamSource(counting, read_unless(3))
    assert numbers(source, [0, 1, 2, 3]) == [0, 1, 2, 4]
    assert numbers(source, [4, 5, 199, 200]) == [4, 5, 199, 200]
    assert numbers(StreamSource(counting, read_unless(3)), [206, 205]) == [206, 205]
    with pytest.raises(ValueError, match="no rows"):
        StreamSource(lambda epoch: iter([]), read_unless()).fetch([0])


def test_a_streams_skipped_rows_are_counted_once_over_restarts():
    name = "row {}.".format
    source = StreamSource(counting, read_unless(3, 5), lambda row, number: name(row["n"]), "drums")
    numbers(source, range(10))
    numbers(source, [8, 9, 3 + 7])
    assert (source.skipped.seen, source.skipped.reasons) == (11, ["row 3. is silent", "row 5. is silent"])
    again = StreamSource(counting, read_unless(3, 5, 12), lambda row, number: name(row["n"]), "drums")
    again.load_state_dict(json.loads(json.dumps(source.state_dict())))
    numbers(again, range(2, 10))  # the last batches are drawn again
    assert again.skipped.seen == 11
    with pytest.raises(ValueError, match=r"3 of 13 clips of data set 'drums' cannot .*row 3\. is silent; .*row 12\."):
        numbers(again, range(10, 20))


def test_one_percent_of_a_stream_may_be_broken_but_not_more():
    broken = [n for n in range(1, 2000, 125)]  # 0.8 %
    source = StreamSource(counting, read_unless(*broken))
    for start in range(0, 2000, 50):
        numbers(source, range(start, start + 50))
    assert len(source.skipped.reasons) == len(broken)
    with pytest.raises(ValueError, match="more than 1%"):
        source = StreamSource(counting, read_unless(*range(7, 2000, 50)))
        for start in range(0, 2000, 50):
            numbers(source, range(start, start + 50))


def test_streamed_rows_are_those_of_the_folder(training_inputs):
    folder = training_inputs["dataset_name"]
    captions = [row["caption"] for row in open_rows(folder, streaming=True)]
    assert captions == [row["caption"] for row in open_rows(folder)]
    assert [row["caption"] for row in open_rows(folder, streaming=True, skip=5)] == captions[5:]
    with pytest.raises(ValueError, match="'sound' is not in"):
        open_rows(folder, audio_column="sound", streaming=True)


def test_mixtures_have_both_captions_or_none(training_inputs, audioldm, monkeypatch):
    clips = load_clips(training_inputs["dataset_name"], num_samples=SAMPLES)
    encoders = load_teacher(audioldm).encoders
    seen = []
    encode = encoders.encode_prompts
    monkeypatch.setattr(
        encoders, "encode_prompts", lambda prompts, *more: seen.append(prompts) or encode(prompts, *more)
    )
    data = WaveformData(MemorySource(clips), encoders, SAMPLES, mix_rate=1.0)
    clean, condition, guided = data.draw(torch.arange(6), slice(0, 6), 0.4, torch.Generator().manual_seed(0))("cpu")
    assert clean.shape == (6, *data.latent_shape)
    *prompts, empty = seen[0]
    assert empty == "" and all(" and " in prompt for prompt in prompts)
    is_dropped = (guided["class_labels"][:6] == guided["class_labels"][6]).all(dim=1)
    assert 0 < is_dropped.sum() < 6
    torch.testing.assert_close(guided["class_labels"][:6], condition["class_labels"])
    assert torch.equal(guided["class_labels"][6], guided["class_labels"][11])
    alone = WaveformData(MemorySource(clips), encoders, SAMPLES).draw(
        torch.arange(6), slice(0, 6), 0.0, torch.Generator().manual_seed(0)
    )("cpu")[0]
    assert not torch.allclose(alone, clean)


def test_two_processes_share_a_mixed_batch(training_inputs, audioldm):
    clips = load_clips(training_inputs["dataset_name"], num_samples=SAMPLES)
    data = WaveformData(MemorySource(clips), load_teacher(audioldm).encoders, SAMPLES, mix_rate=0.5)

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


def tar_data(tars, teacher, **given):
    settings = settings_of("webdataset", data_files=tars, audio_column="flac", caption_column="json.caption", **given)
    return distillation_data(settings, teacher.encoders, 8)


@pytest.mark.parametrize(
    "member, content, reason",
    [
        ("01.json", b"{not json", r"clips-0\.tar/01\.flac has a damaged member \.json"),
        ("01.json", "{}".encode("utf-16"), r"01\.flac has a damaged member \.json"),
        ("01.json", b'{"text": "x"}', r"01\.flac has no column 'json\.caption'"),
        ("01.json", b'{"caption": {"text": "rain"}}', r"01\.flac has \{'text': 'rain'\} in column 'json\.caption'"),
        ("01.json", b'{"caption": NaN}', r"01\.flac has nan in column"),
        ("01.json", b'{"caption": 5}', r"01\.flac has 5 in column"),
        ("01.json", b'{"caption": ["rain", ""]}', r"01\.flac has \['rain', ''\] in column"),
        ("01.json", None, r"01\.flac has no column 'json\.caption'"),
        ("01.flac", b"no audio", r"01\.flac cannot be decoded"),
        ("01.flac", None, r"01\.flac has no audio"),
    ],
)
def test_one_bad_member_of_a_tar_is_skipped_and_named(audioldm, tmp_path, member, content, reason):
    tars = write_tars(tmp_path)
    rewrite(Path(tars[0]), lambda name, old: content if name == member else old)
    data = tar_data(tars, load_teacher(audioldm), stream_buffer_size=1)
    for number in range(3):
        data.draw(data.order(2, number, 0), slice(0, 2), 0.1, torch.Generator().manual_seed(0))("cpu")
    (found,) = set(data.source.skipped.reasons)
    assert Path(found.split("/clips")[0]) == tmp_path
    assert re.search(reason, found), found


def test_captions_missing_in_most_clips_end_the_run(audioldm, tmp_path):
    tars = [rewrite(Path(tar), lambda name, old: b'{"caption": " "}' if name[1:] in ("0.json", "1.json") else old)
            for tar in write_tars(tmp_path)]  # fmt: skip
    data = tar_data(tars, load_teacher(audioldm), stream_buffer_size=1)
    with pytest.raises(ValueError, match=r"3 of \d clips of data set 'webdataset' cannot be used.*has ' ' in column"):
        for number in range(6):
            data.draw(data.order(2, number, 0), slice(0, 2), 0.1, torch.Generator().manual_seed(0))("cpu")


def test_a_damaged_tar_is_named(audioldm, tmp_path):
    tars = write_tars(tmp_path)
    Path(tars[1]).write_bytes(Path(tars[1]).read_bytes()[:700])
    with pytest.raises(ValueError, match=r"clips-1\.tar cannot be read as a tar file"):
        list(open_rows("webdataset", audio_column="flac", data_files=tars))


def test_a_resumed_run_keeps_the_counts_of_its_stream(audioldm, tmp_path):
    teacher = load_teacher(audioldm)
    first, second = (tar_data(write_tars(tmp_path), teacher) for _ in range(2))
    first.draw(first.order(2, 0, 0), slice(0, 2), 0.1, torch.Generator().manual_seed(0))("cpu")
    second.load_state_dict(first.state_dict())
    assert second.source.skipped.seen == first.source.skipped.seen == 2


def test_processes_count_the_skipped_clips_of_a_stream_together():
    sources = [StreamSource(counting, read_unless(1, 5)) for _ in range(2)]
    sources[0].fetch([0, 1])  # 1 is skipped, and 2 read in its place
    sources[1].fetch([4, 5])  # 5 is skipped
    both = merged([source.state_dict() for source in sources])
    assert both["reasons"] == ["row 1 is silent", "row 5 is silent"] and both["next_row"] == 7
    again = StreamSource(counting, read_unless(1, 5))
    again.load_state_dict(both)
    again.fetch([4, 5])
    assert again.skipped.reasons == both["reasons"] and again.skipped.seen == both["seen"]


def test_a_stream_is_told_from_one_of_changed_files(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"1")
    first = source_fingerprint("webdataset", [f"{tmp_path}/*.tar"])
    assert first == source_fingerprint("webdataset", [str(tmp_path / "a.tar")])
    (tmp_path / "a.tar").write_bytes(b"12")
    assert first != source_fingerprint("webdataset", [f"{tmp_path}/*.tar"])
    remote = [source_fingerprint("webdataset", [f"https://example.org/{name}.tar"]) for name in "aab"]
    assert remote[0] == remote[1] != remote[2]


def test_a_streamed_audio_folder_needs_no_decoder(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "caption": "rain"}\n')
    (row,) = open_rows(str(tmp_path), streaming=True)
    assert row["audio"]["path"] == str(tmp_path / "a.wav") and row["caption"] == "rain"


def test_latents_of_waveforms_are_those_of_memory(training_inputs, audioldm, tmp_path):
    encoders = load_teacher(audioldm).encoders
    memory = distillation_data(settings_of(training_inputs["dataset_name"], tmp_path), encoders, 8)
    clips = load_clips(training_inputs["dataset_name"], num_samples=SAMPLES)
    waveforms = WaveformData(MemorySource(clips), encoders, SAMPLES)
    batches = [data.draw(torch.arange(4), slice(0, 4), 0.0, torch.Generator())("cpu") for data in (memory, waveforms)]
    torch.testing.assert_close(batches[0][0], batches[1][0], rtol=1e-2, atol=1e-2)


def test_sampled_posteriors_do_not_depend_on_the_number_of_processes(training_inputs, audioldm, tmp_path):
    encoders = load_teacher(audioldm).encoders
    settings = settings_of(training_inputs["dataset_name"], tmp_path, sample_posterior=True)
    data = distillation_data(settings, encoders, 8)

    def draw(rows, seed=0):
        return data.draw(torch.arange(4), rows, 0.1, torch.Generator().manual_seed(seed))("cpu")[0]

    both = torch.cat([draw(slice(0, 2)), draw(slice(2, 4))])
    torch.testing.assert_close(both, draw(slice(0, 4)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(both, draw(slice(0, 4), seed=1))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_audio_files_needs_metadata_and_no_decoder_of_datasets(streaming, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # an import fails
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(160), 16000)
    with pytest.raises(ValueError, match=r"no metadata\.csv or metadata\.jsonl; add one with the columns"):
        open_rows(str(tmp_path), streaming=streaming)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "caption": "rain"}\n')
    (row,) = open_rows(str(tmp_path), streaming=streaming)
    assert row["caption"] == "rain" and len(decode_audio(row["audio"]["path"], 16000)) == 160
