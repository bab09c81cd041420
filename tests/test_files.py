"""Files and folders are written completely or not at all."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from diffusers_soundctm import files
from diffusers_soundctm.files import (
    atomic,
    atomic_folder,
    read_json,
    remove_unfinished,
    save_safetensors,
    write_json,
)


def test_an_error_in_the_middle_keeps_the_old_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="crash"), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("crash")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError, match="crash"), atomic(tmp_path / "new.txt"):
        raise RuntimeError("crash")
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exists", [True, False], ids=["link", "dangling_link"])
def test_links_are_followed(tmp_path, exists):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    if exists:
        target.write_text("old")
    with atomic(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and not target.is_symlink() and target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_only_regular_files_are_replaced(tmp_path):
    with pytest.raises(OSError, match=r"is a folder; choose the name of a file"), atomic(tmp_path):
        pass
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", loop, tmp_path / "pipe"):
        with pytest.raises(OSError, match=rf"{path} is not a regular file"), atomic(path):
            pass
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "missing" / "a.txt"):
        pass


def test_the_mode_of_an_existing_file_is_kept_and_a_new_one_follows_the_umask(tmp_path):
    old, new, plain = tmp_path / "old", tmp_path / "new", tmp_path / "plain"
    old.write_text("")
    old.chmod(0o640)
    plain.write_text("")
    for path in (old, new):
        save_safetensors({"x": torch.zeros(1)}, path)
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert new.stat().st_mode == plain.stat().st_mode


def test_the_longest_names_can_be_written(tmp_path):
    path = tmp_path / ("n" * 245 + ".json")
    write_json(path, [1])
    assert read_json(path) == [1]
    with atomic_folder(tmp_path / ("n" * 250)) as temporary:
        (temporary / "a").touch()
    assert (tmp_path / ("n" * 250) / "a").is_file()


def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"prompt": "la pluie à Noël"})
    assert "à Noël" in path.read_text(encoding="utf-8") and path.read_bytes().endswith(b"}\n")
    assert read_json(path) == {"prompt": "la pluie à Noël"}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_json(path) == {"prompt": "la pluie à Noël"}
    for damaged in (b"{", b"\xff\xfe", b""):
        path.write_bytes(damaged)
        with pytest.raises(OSError, match=r"a\.json is not valid JSON .*; download or copy it again"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert read_json(path) == 1


def test_safetensors_keep_tensors_and_metadata(tmp_path):
    path = tmp_path / "made" / "a.safetensors"
    tensors = {"x": torch.arange(6.0).reshape(2, 3).T.requires_grad_()}
    save_safetensors(tensors, path, {"format": "pt"})
    torch.testing.assert_close(load_file(path)["x"], tensors["x"].detach())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_complete_or_not_there(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(RuntimeError, match="crash"), atomic_folder(folder) as temporary:
        (temporary / "a").touch()
        raise RuntimeError("crash")
    assert not list(tmp_path.iterdir())
    with atomic_folder(folder) as temporary:
        (temporary / "a").touch()
        assert not folder.exists()
    with pytest.raises(OSError, match=r"folder is not empty; delete it or choose another"), atomic_folder(folder):
        pass
    with pytest.raises(RuntimeError, match="crash"), atomic_folder(folder, overwrite=True):
        raise RuntimeError("crash")
    assert [path.name for path in folder.iterdir()] == ["a"]
    with atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "b").touch()
    assert [path.name for path in folder.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [folder]
    with pytest.raises(OSError, match=r"b is a file; choose the name of a folder"), atomic_folder(folder / "b"):
        pass


def test_leftovers_of_a_killed_process_are_removed_and_work_of_others_stays(tmp_path):
    """Two processes write a file and a folder each; one is killed."""
    code = (
        "import sys\nfrom diffusers_soundctm.files import atomic, atomic_folder\n"
        "file, folder = atomic(sys.argv[1] + '/a'), atomic_folder(sys.argv[1] + '/b')\n"
        "file.__enter__(), (folder.__enter__() / 'content').touch()\n"
        "print('written', flush=True)\nsys.stdin.read()\nfile.__exit__(None, None, None)"
    )
    (tmp_path / "kept.txt").touch()
    dead, alive = (
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            env={"PYTHONPATH": str(Path(files.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    )
    try:
        for process in (dead, alive):
            process.stdout.readline()
        dead.kill()
        dead.communicate()
        assert len(list(tmp_path.glob(".*"))) == 4
        remove_unfinished(tmp_path)
        assert len(list(tmp_path.glob(".*"))) == 2
    finally:
        alive.communicate()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "kept.txt"]
