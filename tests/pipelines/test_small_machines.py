"""What makes a large model fit into little memory changes nothing that one hears."""

import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline
from one_step import encode, predict

ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


@pytest.fixture
def pipe(tiny_pipeline):
    return tiny_pipeline("dit")


def sound(pipe):
    latents = torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(0))
    return pipe("rain", num_inference_steps=2, nu=1.5, latents=latents, output_type="pt").audios.cpu()


def test_blocks_that_wait_on_disk(pipe, tmp_path):
    expected = sound(pipe)
    pipe.enable_group_offload(
        torch.device("cpu"), num_blocks_per_group=1, offload_to_disk_path=str(tmp_path), exclude_modules=["vae"]
    )
    assert torch.equal(sound(pipe), expected)
    assert len(list(tmp_path.glob("*.safetensors"))) >= len(pipe.transformer.transformer_blocks)


@pytest.mark.skipif(ACCELERATOR is None, reason="needs an accelerator to move the networks to")
@pytest.mark.parametrize("kind", ["model", "group"])
def test_networks_that_wait_on_the_cpu(pipe, kind):
    expected = sound(pipe)
    if kind == "model":
        pipe.enable_model_cpu_offload(device=ACCELERATOR)
    else:
        pipe.enable_group_offload(ACCELERATOR, num_blocks_per_group=1, use_stream=True, exclude_modules=["vae"])
    torch.testing.assert_close(sound(pipe), expected, atol=1e-3, rtol=1e-3)


def test_compiled_blocks(pipe):
    expected = sound(pipe)
    torch.compiler.reset()
    pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")
    torch.testing.assert_close(sound(pipe), expected, atol=1e-4, rtol=1e-4)


def test_int8_weights(pipe):
    quantization = pytest.importorskip("torchao.quantization")
    expected, size = sound(pipe), pipe.transformer.transformer_blocks[0].ff.net[2].weight.nbytes
    quantization.quantize_(pipe.transformer, quantization.Int8WeightOnlyConfig())
    weight = pipe.transformer.transformer_blocks[0].ff.net[2].weight
    assert weight.qdata.nbytes == size / 4
    difference = (sound(pipe) - expected).norm() / expected.norm()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("backend", ["torchao", "optimum.quanto"])
@pytest.mark.parametrize("family", ["dit", "tango"])
def test_pipelines_quantize_while_they_load(tiny_pipeline, tmp_path, family, backend):
    from diffusers import PipelineQuantizationConfig, QuantoConfig, TorchAoConfig

    pytest.importorskip(backend)
    pipe = tiny_pipeline(family)
    pipe.save_pretrained(tmp_path)
    name = "unet" if pipe.transformer is None else "transformer"
    if backend == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    else:
        config = QuantoConfig(weights_dtype="int8")
    quantized = SoundCTMPipeline.from_pretrained(
        tmp_path, quantization_config=PipelineQuantizationConfig(quant_mapping={name: config})
    )
    kinds = {type(parameter).__name__ for parameter in quantized.denoiser.parameters()}
    assert kinds & {"Int8Tensor", "WeightQBytesTensor"}
    expected = predict(pipe, encode(pipe))
    difference = (predict(quantized, encode(quantized)) - expected).norm() / expected.norm()
    assert 0 < difference < 0.05


def test_a_missing_quantization_package_is_named(tiny_pipeline, tmp_path):
    from diffusers import PipelineQuantizationConfig, QuantoConfig
    from diffusers.utils import is_optimum_quanto_available

    if is_optimum_quanto_available():
        pytest.skip("optimum-quanto is installed")
    tiny_pipeline("dit").save_pretrained(tmp_path)
    config = PipelineQuantizationConfig(quant_mapping={"transformer": QuantoConfig("int8")})
    with pytest.raises(ImportError, match="optimum-quanto"):
        SoundCTMPipeline.from_pretrained(tmp_path, quantization_config=config)
