"""The disk space of clients is bounded; the oldest files go first."""

import pytest

from diffusers_soundctm.app.disk import DiskBudget


def write(disk, folder, name, client, size=100):
    disk.write(folder / name / "sound.wav", bytes(size), client)


def names(folder):
    return sorted(path.parent.name for path in folder.glob("*/*"))


def test_the_oldest_files_of_a_client_and_then_of_all_go_first(tmp_path):
    disk = DiskBudget(per_client=250, in_all=500)
    for i in range(4):
        write(disk, tmp_path, f"a{i}", "a")
    assert names(tmp_path) == ["a2", "a3"] and not (tmp_path / "a0").exists()
    write(disk, tmp_path, "a2", "a")  # now newer than a3
    write(disk, tmp_path, "a4", "a")
    assert names(tmp_path) == ["a2", "a4"]
    for client in "bc":
        for i in range(2):
            write(disk, tmp_path, f"{client}{i}", client)
    assert names(tmp_path) == ["a4", "b0", "b1", "c0", "c1"]


def test_the_newest_file_stays_whatever_its_size(tmp_path):
    disk = DiskBudget(per_client=250, in_all=500)
    write(disk, tmp_path, "small", "a")
    write(disk, tmp_path, "large", "a", 1000)
    assert names(tmp_path) == ["large"]


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(ValueError, match="no longer on the server"):
        DiskBudget().add(tmp_path / "gone.wav", "a")
