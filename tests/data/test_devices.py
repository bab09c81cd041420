"""Models are lent to a device and come back, whatever happens."""

import pytest
import torch

from diffusers_soundctm.data.devices import moved


class Recorder(torch.nn.Linear):
    """Records where it is moved to, and stays where it is."""

    def __init__(self):
        super().__init__(1, 1)
        self.moves = []

    def to(self, device):
        self.moves.append(str(device))
        return self


def test_models_come_back_also_after_an_error():
    models = [Recorder(), Recorder()]
    with moved(models, "meta"):
        assert [model.moves for model in models] == [["meta"], ["meta"]]
    with pytest.raises(RuntimeError, match="inside"), moved(models[:1], "meta"):
        raise RuntimeError("inside")
    assert [model.moves for model in models] == [["meta", "cpu"] * 2, ["meta", "cpu"]]
