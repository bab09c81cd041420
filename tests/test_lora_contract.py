"""The contract of diffusers' LoRA loaders, for the denoiser of every family; mirrors its `PeftLoraLoaderMixinTests`."""

import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.lora import add_lora, save_lora
from one_step import encode, predict
from tiny_teachers import FAMILIES, make_teacher

peft = pytest.importorskip("peft")


# The others differ in their networks alone, and are slow to make.
FAST = ("audioldm", "dit")


@pytest.fixture(
    scope="module",
    params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in FAST)],
)
def made(request, tmp_path_factory, tiny_pipeline):
    """A student of each family, initialized from its teacher, and the encoded prompt."""
    if request.param == "dit":
        pipe = tiny_pipeline("dit")
    else:
        folder = tmp_path_factory.mktemp("teachers") / request.param
        make_teacher(request.param, folder, tiny_pipeline)
        pipe = SoundCTMPipeline.from_teacher(folder)
    return pipe.components, encode(pipe)


@pytest.fixture
def pipe(made):
    components, encoded = made
    pipe = SoundCTMPipeline(**components)
    pipe.encoded = encoded
    yield pipe
    for name in list(getattr(pipe.denoiser, "peft_config", ())):
        pipe.delete_adapters(name)
    pipe.unload_lora_weights()


def output(pipe):
    return predict(pipe, pipe.encoded)


def component(pipe) -> str:
    return "unet" if pipe.transformer is None else "transformer"


def adapter(pipe, seed: int, rank: int = 2, alpha: float | None = None, own: bool = False):
    """State dict of a new adapter with random weights; with `own`, also values of the parameters of s and ω."""
    config = peft.LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=["to_q", "to_qkv", "to_out.0"])
    pipe.denoiser.add_adapter(config, "made")
    generator = torch.Generator().manual_seed(seed)
    state = peft.get_peft_model_state_dict(pipe.denoiser, adapter_name="made")
    state = {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in state.items()}
    metadata = pipe.denoiser.peft_config["made"].to_dict()
    pipe.delete_adapters("made")
    tensors = {f"{component(pipe)}.{name}": value for name, value in state.items()}
    if own:
        values = pipe.denoiser.new_parameters.items()
        noise = {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in values}
        tensors |= {f"ctm.{name}": value.data + noise[name] for name, value in values}
    return tensors, state, metadata


def differ(*outputs) -> bool:
    return all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(outputs) for b in outputs[:i])


def same(a, b) -> None:
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_adapters_are_set_weighted_disabled_and_deleted(pipe):
    base = output(pipe)
    for name, seed in (("first", 1), ("second", 2)):
        pipe.load_lora_weights(adapter(pipe, seed, own=True)[0], adapter_name=name)
    assert pipe.get_list_adapters() == {component(pipe): ["first", "second"]}
    pipe.set_adapters("first")
    first = output(pipe)
    assert pipe.get_active_adapters() == ["first"]
    pipe.set_adapters("second")
    second = output(pipe)
    pipe.set_adapters(["first", "second"], [0.5, 0.75])
    mixed = output(pipe)
    assert differ(base, first, second, mixed)
    pipe.set_adapters(["first", "second"], [1.0, 0.0])
    same(output(pipe), first)
    pipe.set_adapters(["first", "second"], [0.0, 0.0])
    same(output(pipe), base)

    pipe.set_adapters(["first", "second"])
    pipe.disable_lora()
    same(output(pipe), base)
    pipe.enable_lora()
    assert differ(output(pipe), base)
    pipe.delete_adapters("first")
    same(output(pipe), second)
    pipe.delete_adapters(["second"])
    same(output(pipe), base)
    for names, weights in ((["third"], None), ("third", None)):
        with pytest.raises(ValueError, match="third"):
            pipe.set_adapters(names, weights)


def test_unload_restores_the_network(pipe):
    base = output(pipe)
    pipe.load_lora_weights(adapter(pipe, 1, own=True)[0])
    assert differ(output(pipe), base)
    pipe.unload_lora_weights()
    same(output(pipe), base)


def test_fused_adapters_can_be_unfused(pipe):
    base = output(pipe)
    for name, seed in (("first", 1), ("second", 2)):
        pipe.load_lora_weights(adapter(pipe, seed, own=True)[0], adapter_name=name)
    pipe.set_adapters(["first", "second"], [0.5, 0.75])
    mixed = output(pipe)
    pipe.fuse_lora(adapter_names=["first", "second"])
    assert pipe.num_fused_loras == 2
    same(output(pipe), mixed)
    pipe.unfuse_lora()
    assert pipe.num_fused_loras == 0
    same(output(pipe), mixed)
    pipe.delete_adapters(["first", "second"])
    same(output(pipe), base)


def test_scale_of_fusing_equals_the_weight(pipe):
    pipe.load_lora_weights(adapter(pipe, 1, own=True)[0], adapter_name="first")
    pipe.set_adapters("first", 0.4)
    weighted = output(pipe)
    pipe.set_adapters("first", 1.0)
    pipe.fuse_lora(lora_scale=0.4)
    same(output(pipe), weighted)
    pipe.unfuse_lora()


def test_blocks_have_weights_of_their_own(pipe):
    base = output(pipe)
    pipe.load_lora_weights(adapter(pipe, 1)[0], adapter_name="first")
    name = component(pipe)
    if name == "unet":
        blocks = [{"down": 0.0}, {"up": 0.0}, {"mid": 0.0}, {"down": {"block_1": [0.5]}, "mid": 0.5}]
        nothing = {"down": 0.0, "mid": 0.0, "up": 0.0}
        wrong = {"up": {"block_9": 1.0}}
    else:
        stack = next(key for key, part in pipe.transformer.named_children() if isinstance(part, torch.nn.ModuleList))
        blocks = [{f"{stack}.0": 0.0}, {f"{stack}.1": 0.0}, {f"{stack}.0": 0.5}]
        nothing = {f"{stack}.0": 0.0, f"{stack}.1": 0.0}
        wrong = {f"{stack}.9": 1.0}
    outputs = []
    for weights in blocks:
        pipe.set_adapters("first", {name: weights})
        outputs.append(output(pipe))
    pipe.set_adapters("first")
    assert differ(base, output(pipe), *outputs)
    pipe.set_adapters("first", {name: nothing})
    same(output(pipe), base)
    with pytest.raises(ValueError, match="9"):
        pipe.set_adapters("first", {name: wrong})


@pytest.mark.parametrize("alpha", [2, 5.0])
def test_saved_weights_load_with_their_alpha(pipe, tmp_path, alpha):
    tensors, state, metadata = adapter(pipe, 1, alpha=alpha)
    name = component(pipe)
    layers = {f"{name}_lora_layers": state, f"{name}_lora_adapter_metadata": metadata}
    pipe.save_lora_weights(tmp_path, **layers)
    read, config = SoundCTMPipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    assert read.keys() == tensors.keys() and config[f"{name}.lora_alpha"] == alpha
    pipe.load_lora_weights(tmp_path, adapter_name="file")
    from_file = output(pipe)
    pipe.load_lora_weights(tensors, adapter_name="dict")
    pipe.set_adapters("dict", alpha / 2)  # a state dict does not tell alpha
    same(output(pipe), from_file)
    with pytest.raises(ValueError, match="are empty"):
        pipe.save_lora_weights(tmp_path)


def test_hotswap_replaces_an_adapter(pipe):
    first, second = (adapter(pipe, seed, own=True)[0] for seed in (1, 2))
    pipe.load_lora_weights(second, adapter_name="one")
    expected = output(pipe)
    pipe.delete_adapters("one")
    pipe.load_lora_weights(first, adapter_name="one")
    pipe.load_lora_weights(second, adapter_name="one", hotswap=True)
    same(output(pipe), expected)


def test_adapters_load_under_group_offloading(pipe):
    pipe.load_lora_weights(adapter(pipe, 1)[0])
    expected = output(pipe)
    pipe.unload_lora_weights()
    pipe.denoiser.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    pipe.load_lora_weights(adapter(pipe, 1)[0])
    same(output(pipe), expected)


def test_a_state_dict_without_lora_is_refused(pipe):
    for state in ({}, {"text_encoder.a.lora_A.weight": torch.ones(1, 1)}, {"transformer_blocks.0.a": torch.ones(1)}):
        with pytest.raises(ValueError, match="no LoRA weights of a denoiser"):
            pipe.load_lora_weights(state)


def test_files_of_transformers_that_were_saved_as_unet_load(tiny_pipeline, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    trained, fresh = tiny_pipeline("dit"), tiny_pipeline("dit")
    trained.encoded = fresh.encoded = encode(trained)
    for parameter in add_lora(trained.transformer, 2):
        parameter.data += 0.1
    path = save_lora(trained.transformer, tmp_path)
    with safe_open(path, "pt") as file:
        metadata = {key: value.replace('"transformer.', '"unet.') for key, value in file.metadata().items()}
        tensors = {key.replace("transformer.", "unet.", 1): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert all(key.startswith("unet.") for key in tensors)
    save_file(tensors, path, metadata)
    fresh.load_lora_weights(tmp_path)
    same(output(fresh), output(trained))
