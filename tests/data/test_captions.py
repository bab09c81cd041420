"""Captions and the metadata of audio folders: what is malformed is refused by file and line."""

import math

import pytest

from diffusers_soundctm.data.captions import check_captions, read_metadata
from diffusers_soundctm.data.clips import load_clips, metadata_files


@pytest.mark.parametrize("value, captions", [("rain", ["rain"]), (["rain", "loud rain"], ["rain", "loud rain"])])
def test_a_string_or_a_list_of_strings_is_accepted(value, captions):
    assert check_captions(value) == captions


@pytest.mark.parametrize(
    "value",
    [None, "", "  ", [], ["rain", None], ["rain", " "], {"text": "rain"}, [["rain"]], math.nan, 3, 2.5, True, b"rain",
     "\ud800 rain"],
)  # fmt: skip
def test_other_captions_are_refused_by_value(value):
    with pytest.raises(ValueError, match=r"has .* in column 'text'; give every clip a non-empty string, or a list"):
        check_captions(value, "text")


def test_long_values_are_cut_in_the_message():
    with pytest.raises(ValueError, match=r"^.{,180}$"):
        check_captions({"text": "rain " * 1000})


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("file_name,caption\na.wav,rain, then wind\n", r"line 2: 3 fields, but the header has 2 .*double quotes"),
        ("file_name,caption\na.wav,rain\nb.wav\n", r"line 3: 1 fields, but the header has 2"),
        ('file_name,caption\na.wav,"two\nlines"\nb.wav,x,y\n', r"line 4: 3 fields"),
        ("file_name,caption,caption\na.wav,rain,wind\n", r"line 1: the header has 'caption' more than once; rename"),
        ("file_name,caption, caption\na.wav,rain,wind\n", r"'caption' more than once"),
        ('file_name,caption\na.wav,"rain" loudly\n', r"line 2: .*double the quotes"),
        ('file_name,caption\na.wav,"rain\nb.wav,wind\n', r"line 2: .*double quotes"),
        ("file_name;caption\na.wav;rain\n", r"line 1: .*'file_name;caption'.*Separate the columns with commas"),
        ("file,caption\na.wav,rain\n", r"line 1: .*name the column of the audio files 'file_name'"),
        ("file_name,caption\n ,rain\n", r"line 2: `file_name` is ' '; name an audio file"),
        ("", r"is empty"),
    ],
)
def test_malformed_csv_is_named_by_file_and_line(tmp_path, text, complaint):
    path = tmp_path / "metadata.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)metadata\.csv.*{complaint}"):
        read_metadata(path)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ('{"file_name": "a.wav", "caption": "rain"}\n{"file_name": "b.wav"\n', r"line 2: .*one JSON object per line"),
        ('{"file_name": "a.wav", "caption": "rain"}\n\n{"file_name": "b.wav"}\n', r"line 3: the keys are"),
        ('["a.wav"]', r"line 1: .*no object with the key 'file_name'"),
        ('{"file_name": 3}', r"line 1: `file_name` is 3"),
        ("\n", r"is empty"),
    ],
)
def test_malformed_jsonl_is_named_by_file_and_line(tmp_path, text, complaint):
    path = tmp_path / "metadata.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"metadata\.jsonl.*{complaint}"):
        read_metadata(path)


@pytest.mark.parametrize("encoding, complaint", [("cp1252", r"line 3: .*not UTF-8 \(byte 0xe9\).*CSV UTF-8"),
                                                 ("utf-16", r"line 1: .*not UTF-8"),
                                                 ("utf-16-le", r"zero bytes, as UTF-16")])  # fmt: skip
def test_other_encodings_are_refused_with_the_remedy(tmp_path, encoding, complaint):
    path = tmp_path / "metadata.csv"
    text = "file_name,caption\na.wav,rain\nb.wav,café\n"
    path.write_bytes((text.replace("é", "e") if encoding == "utf-16-le" else text).encode(encoding))
    with pytest.raises(ValueError, match=complaint):
        read_metadata(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_with_or_without_a_byte_order_mark(tmp_path, encoding, newline):
    path = tmp_path / "metadata.csv"
    text = 'file_name,caption\na.wav,"café, ""rain"""\n\nb.wav,5" pipe\n'
    path.write_bytes(text.replace("\n", newline).encode(encoding))
    rows = read_metadata(path)
    assert [row["caption"] for row in rows] == ['café, "rain"', '5" pipe']


def test_a_csv_is_preferred_to_a_jsonl_and_splits_are_found(tmp_path):
    for name in ("metadata.csv", "metadata.jsonl", "test/metadata.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert metadata_files(tmp_path) == {
        "train": tmp_path / "metadata.csv",
        "test": tmp_path / "test" / "metadata.jsonl",
    }


def test_jsonl_captions_may_be_strings_and_lists(tmp_path):
    import numpy as np
    import soundfile

    rows = ['{"file_name": "a.wav", "caption": "rain"}', '{"file_name": "b.wav", "caption": ["wind", "a storm"]}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", 0.5 * np.ones(800), 16000)
    assert load_clips(str(tmp_path), num_samples=800).captions == [["rain"], ["wind", "a storm"]]
    (tmp_path / "metadata.jsonl").write_text(rows[0].replace('"rain"', '{"text": "rain"}'))
    with pytest.raises(ValueError, match=r"a\.wav of data set .* has \{'text': 'rain'\} in column 'caption'"):
        load_clips(str(tmp_path), num_samples=800)
