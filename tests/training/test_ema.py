"""The EMA of a network's weights."""

import copy

import torch

from diffusers_soundctm import CTMUNet2DConditionModel
from diffusers_soundctm.training.ema import ema_copy, ema_update


def test_ema_follows_the_weights_and_is_not_trained(tiny_pipeline):
    model = tiny_pipeline("embedded").unet
    average = ema_copy(model)
    before = copy.deepcopy(average.state_dict())
    for parameter in model.parameters():
        parameter.data += 1
    ema_update(average, model, 0.9)
    assert isinstance(average, CTMUNet2DConditionModel) and not average.training
    for name, parameter in average.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.1, rtol=0, atol=1e-5)
        assert not parameter.requires_grad
