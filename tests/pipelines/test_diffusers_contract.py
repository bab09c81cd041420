"""What diffusers tests of its own pipelines and models, for ours; its fixtures and code are not used.

Checks of its `PipelineTesterMixin` that are here: batches, dtypes (alias, dictionary, half precision), variants,
attention slicing, layerwise casting, group offloading, caches, `encode_prompt` in isolation, `device_map`. Of its
`ModelTesterMixin`: saving and loading with variant and dtype, tuples, determinism, repeated blocks. LoRA is in
`test_lora_contract.py`. In `test_pipeline_soundctm.py` are: save and load, optional components, batch of one and of
several, waveforms per prompt, latents, callbacks, dictionary and tuple, `from_pipe`, the offload sequence, the call's
signature. Offloading to a device and compilation are in `test_offload.py` and `test_small_machines.py`.
"""

import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline, FirstBlockCacheConfig, PyramidAttentionBroadcastConfig

from diffusers_soundctm import CTMStableAudio3DiTModel, SoundCTMPipeline
from one_step import encode, predict
from tiny_teachers import FAMILIES, make_teacher

FAST = ("embedded", "dit")
SLOW = ("tango", "audioldm", *(f"student of {family}" for family in FAMILIES))


@pytest.fixture(scope="module", params=[*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def folder(request, tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("contract")
    if request.param.startswith("student of "):
        make_teacher(request.param.removeprefix("student of "), folder / "teacher", tiny_pipeline)
        SoundCTMPipeline.from_teacher(folder / "teacher").save_pretrained(folder / "model")
    else:
        tiny_pipeline(request.param).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def pipe(folder):
    pipe = SoundCTMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def networks(pipe) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def dtypes(pipe) -> dict[str, torch.dtype]:
    """The dtype of each component, without denoisers that predict epsilon, which stay in float32."""
    parts = networks(pipe)
    if pipe.scheduler.config.prediction_type == "epsilon":
        assert parts.pop("unet").dtype == torch.float32
    return {name: part.dtype for name, part in parts.items()}


def latents(pipe, steps: int = 4):
    generator = torch.Generator().manual_seed(0)
    return pipe("rain", num_inference_steps=steps, generator=generator, output_type="latent").audios


def test_every_component_loads_in_one_dtype(folder, tmp_path):
    half = SoundCTMPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    # bfloat16 is too coarse for Stable Audio 3, see `precision`.
    kept = {"transformer": torch.float32} if isinstance(half.transformer, CTMStableAudio3DiTModel) else {}
    assert {name: dtype for name, dtype in dtypes(half).items() if dtype != torch.bfloat16} == kept
    half.save_pretrained(tmp_path)
    assert set(dtypes(SoundCTMPipeline.from_pretrained(tmp_path)).values()) == {torch.float32}
    assert set(dtypes(SoundCTMPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16)).values()) == {
        torch.float16
    }
    mixed = SoundCTMPipeline.from_pretrained(tmp_path, dtype={"vae": torch.float32, "default": torch.bfloat16})
    kept["vae"] = torch.float32
    assert {name: dtype for name, dtype in dtypes(mixed).items() if dtype != torch.bfloat16} == kept
    samples = round(mixed.default_audio_length_in_s * mixed.sampling_rate)
    for pipe in (mixed, DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)):
        pipe.set_progress_bar_config(disable=True)
        audio = {"initial_audio_waveforms": torch.zeros(samples), "initial_audio_sampling_rate": pipe.sampling_rate}
        assert torch.as_tensor(pipe("rain", nu=1.5, **audio).audios).isfinite().all()


def test_a_folder_of_one_variant_loads_by_itself(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    torch.testing.assert_close(latents(SoundCTMPipeline.from_pretrained(tmp_path), 1), latents(pipe, 1))
    name = "unet" if pipe.transformer is None else "transformer"
    file = tmp_path / name / "diffusion_pytorch_model.fp16.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.bf16.safetensors"))
    with pytest.raises(ValueError, match=rf"{name} has bf16.*`variant=`"):
        SoundCTMPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_denoiser_alone_is_saved_and_loaded(pipe, tmp_path, dtype):
    pipe.denoiser.save_pretrained(tmp_path, variant="fp16")
    loaded = AutoModel.from_pretrained(str(tmp_path), variant="fp16", dtype=dtype)
    assert type(loaded) is type(pipe.denoiser) and loaded.dtype == dtype
    again = SoundCTMPipeline(
        **pipe.components | {name: loaded for name in ("unet", "transformer") if getattr(pipe, name)}
    )
    tolerance = {"rtol": 0, "atol": 0} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(predict(again, encode(pipe)), predict(pipe, encode(pipe)), **tolerance)
    with pytest.raises(OSError, match="no file named"):
        type(pipe.denoiser).from_pretrained(tmp_path)


def test_tuples_hold_what_outputs_hold(pipe):
    encoded = encode(pipe)
    sample = torch.randn(1, *pipe.latent_shape(pipe.sampling_rate // 10))
    inputs = {
        "timestep": torch.tensor(0.5),
        "timestep_cond": torch.tensor([[0.5, 3.5]]),
        **pipe.conditioning.network_kwargs(*encoded),
    }
    with torch.no_grad():
        assert torch.equal(
            pipe.denoiser(sample, **inputs).sample, pipe.denoiser(sample, **inputs, return_dict=False)[0]
        )
        assert torch.equal(pipe.vae.decode(sample).sample, pipe.vae.decode(sample, return_dict=False)[0])


def test_repeated_blocks_exist_and_compile(pipe):
    kinds = {type(module).__name__ for module in pipe.denoiser.modules()}
    assert kinds & set(pipe.denoiser._no_split_modules)
    encoded = encode(pipe)
    expected = predict(pipe, encoded)
    if not kinds & set(pipe.denoiser._repeated_blocks):  # AudioLDM attends to nothing outside of its blocks
        pytest.skip("this network has no such blocks")
    torch.compiler.reset()
    pipe.denoiser.compile_repeated_blocks(backend="eager", fullgraph=True)
    torch.testing.assert_close(predict(pipe, encoded), expected, rtol=1e-4, atol=1e-4)


def test_memory_savers_change_nothing(pipe):
    expected = latents(pipe, 1)
    pipe.enable_attention_slicing()
    torch.testing.assert_close(latents(pipe, 1), expected, rtol=1e-3, atol=1e-3)
    pipe.disable_attention_slicing()
    excluded = [] if pipe.vae._supports_group_offloading else ["vae"]  # diffusers' AutoencoderOobleck does not
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level", exclude_modules=excluded)
    torch.testing.assert_close(latents(pipe, 1), expected)


def test_group_offloading_of_blocks(pipe):
    encoded = encode(pipe)
    expected = predict(pipe, encoded)
    pipe.denoiser.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)
    torch.testing.assert_close(predict(pipe, encoded), expected)


def test_layerwise_casting(pipe):
    encoded = encode(pipe)
    expected = predict(pipe, encoded)
    pipe.denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in pipe.denoiser.parameters())
    difference = (predict(pipe, encoded) - expected).norm() / expected.norm()
    assert 0 < difference < 0.5


def test_caches_are_enabled_reset_and_disabled(pipe):
    expected = latents(pipe)
    everywhere = (-1e9, 1e9)
    configs = [
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            cross_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=everywhere,
            cross_attention_timestep_skip_range=everywhere,
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    ]
    if pipe.transformer is not None:
        configs.append(FirstBlockCacheConfig(threshold=1e9))
    for config in configs:
        pipe.denoiser.enable_cache(config)
        assert pipe.denoiser.is_cache_enabled
        cached = latents(pipe)
        assert not torch.equal(cached, expected)
        assert torch.equal(latents(pipe), cached)  # a call does not see the cache of the one before
        with pytest.raises(ValueError, match="already been enabled"):
            pipe.denoiser.enable_cache(config)
        pipe.denoiser.disable_cache()
        assert torch.equal(latents(pipe), expected)
    assert pipe.current_timestep is None


def test_prompts_encoded_alone_give_the_same(pipe):
    expected = latents(pipe, 1)
    length = pipe.default_audio_length_in_s
    embeds, mask, *_ = pipe.encode_prompt("rain", do_nu_sampling=False, audio_length_in_s=length)
    encoders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "projection_model", "language_model")
    rest = SoundCTMPipeline(**pipe.components | dict.fromkeys(encoders))
    rest.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    found = rest(prompt_embeds=embeds, attention_mask=mask, generator=generator, output_type="latent").audios
    torch.testing.assert_close(found, expected)


def test_the_cpu_is_a_device_map(folder, pipe):
    mapped = SoundCTMPipeline.from_pretrained(folder, device_map="cpu")
    mapped.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents(mapped, 1), latents(pipe, 1))
