"""Tiny pretrained pipelines of every family that can be distilled, real diffusers classes with random weights."""

import json
from pathlib import Path

import torch

FAMILIES = ("audioldm", "musicldm", "audioldm2", "tango", "stable_audio", "stable_audio_3", "longcat", "ace_step")
BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
STABLE_AUDIO_SCHEDULER = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "prediction_type": "v_prediction",
    "sigma_data": 1.0,
    "sigma_max": 500,
    "sigma_min": 0.3,
}


def make_teacher(family: str, folder: Path, tiny_pipeline):
    """Save a teacher to `folder`; returns the diffusers pipeline, or a dictionary of components for Tango.

    `tiny_pipeline` is the fixture of that name, which text encoders, autoencoder and vocoder are taken from.
    """
    pipe = _MAKERS[family](tiny_pipeline)
    if isinstance(pipe, dict):
        for name, component in pipe.items():
            component.save_pretrained(folder / name)
        return pipe
    pipe.save_pretrained(folder)
    if family == "stable_audio":  # the scheduler's class needs a package that nothing else here does
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(STABLE_AUDIO_SCHEDULER))
    return pipe


def _unet(**condition):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        **condition,
    )


def _film_unet():
    return _unet(
        cross_attention_dim=[8, 16],
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=12,
        class_embeddings_concat=True,
    )


def _clap_model(text_config):
    from transformers import ClapAudioConfig, ClapConfig, ClapModel

    sound = ClapAudioConfig(
        spec_size=8,
        window_size=4,
        num_mel_bins=8,
        intermediate_size=16,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        num_hidden_layers=2,
        hidden_size=32,
        projection_dim=12,
        patch_size=2,
        patch_stride=2,
        patch_embed_input_channels=4,
    )
    return ClapModel(ClapConfig(text_config=text_config.to_dict(), audio_config=sound.to_dict(), projection_dim=12))


def _audioldm(tiny_pipeline):
    from diffusers import AudioLDMPipeline, DDIMScheduler

    pipe = tiny_pipeline("audioldm")
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "vocoder")}
    return AudioLDMPipeline(unet=_film_unet().eval(), scheduler=DDIMScheduler(**BETAS, clip_sample=False), **parts)


def _musicldm(tiny_pipeline):
    from diffusers import DDIMScheduler, MusicLDMPipeline

    pipe = tiny_pipeline("audioldm")
    parts = {name: getattr(pipe, name) for name in ("vae", "tokenizer", "vocoder")}
    return MusicLDMPipeline(
        text_encoder=_clap_model(pipe.text_encoder.config).eval(),
        feature_extractor=None,
        unet=_film_unet().eval(),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False),
        **parts,
    )


def _audioldm2(tiny_pipeline):
    from diffusers import AudioLDM2Pipeline, AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel, DDIMScheduler
    from transformers import GPT2Config, GPT2LMHeadModel

    pipe, tango = tiny_pipeline("audioldm"), tiny_pipeline("tango")
    parts = {name: getattr(pipe, name) for name in ("vae", "tokenizer", "vocoder")}
    width = tango.text_encoder.config.d_model
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=([None, 12, width], [None, 12, width]),
    )
    language_model = GPT2LMHeadModel(
        GPT2Config(n_embd=12, n_layer=2, n_head=2, vocab_size=9, n_positions=99, max_new_tokens=8)
    )
    return AudioLDM2Pipeline(
        text_encoder=_clap_model(pipe.text_encoder.config).eval(),
        text_encoder_2=tango.text_encoder,
        tokenizer_2=tango.tokenizer,
        projection_model=AudioLDM2ProjectionModel(12, width, 12).eval(),
        language_model=language_model.eval(),
        feature_extractor=None,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False),
        **parts,
    )


def _tango(tiny_pipeline):
    from diffusers import DDPMScheduler

    pipe = tiny_pipeline("tango")
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "vocoder")}
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    return {
        "unet": _unet(cross_attention_dim=pipe.text_encoder.config.d_model).eval(),
        "scheduler": scheduler,
        **parts,
    }


def _stable_audio(tiny_pipeline):
    from diffusers import AutoencoderOobleck, StableAudioDiTModel, StableAudioPipeline, StableAudioProjectionModel

    pipe = tiny_pipeline("tango")
    pipe.tokenizer.model_max_length = 20
    vae = AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[4, 8],
        channel_multiples=[1, 2],
        decoder_channels=6,
        decoder_input_channels=4,
        audio_channels=2,
        sampling_rate=44100,
    )
    transformer = StableAudioDiTModel(
        sample_size=40,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=8,
        time_proj_dim=16,
        cross_attention_input_dim=8,
        global_states_input_dim=16,
    )
    projection = StableAudioProjectionModel(
        text_encoder_dim=pipe.text_encoder.config.d_model, conditioning_dim=8, min_value=0, max_value=512
    )
    return StableAudioPipeline(
        vae=vae.eval(),
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        projection_model=projection.eval(),
        transformer=transformer.eval(),
        scheduler=None,
    )


def _stable_audio_3(tiny_pipeline):
    from diffusers import (
        AutoencoderSAME,
        FlowMatchEulerDiscreteScheduler,
        StableAudio3DiTModel,
        StableAudio3DurationEmbedder,
        StableAudio3Pipeline,
    )
    from transformers import T5GemmaConfig, T5GemmaEncoderModel

    tokenizer = tiny_pipeline("tango").tokenizer
    tokenizer.padding_side = "left"  # as Gemma's
    encoder = {
        "vocab_size": len(tokenizer),
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "query_pre_attn_scalar": 4,
    }
    config = T5GemmaConfig(encoder=encoder, decoder=encoder, is_encoder_decoder=False, vocab_size=len(tokenizer))
    vae = AutoencoderSAME(
        patch_size=8,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(4,),
        encoder_transformer_depths=(1,),
        latent_dim=4,
        dim_heads=8,
    )
    for parameter in vae.parameters():
        if parameter.ndim > 1 and not parameter.any():  # as initialized, its output is silence
            torch.nn.init.normal_(parameter, std=0.3)
    transformer = StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        cond_token_dim=8,
        global_cond_dim=8,
        local_add_cond_dim=5,
        timestep_features_dim=16,
        ff_mult=2,
        num_memory_tokens=3,
    )
    torch.nn.init.normal_(transformer.prompt_padding_embedding)
    # Like a trained network, it is smooth in time: without the upper of its 8 frequencies, 0.5 to 10000.
    transformer.to_timestep_embed[0].weight.data.unflatten(1, (2, 8))[:, :, 3:] = 0
    return StableAudio3Pipeline(
        vae=vae.eval(),
        text_encoder=T5GemmaEncoderModel(config).eval(),
        tokenizer=tokenizer,
        duration_embedder=StableAudio3DurationEmbedder(output_dim=8, fourier_dim=16, max_freq=100.0).eval(),
        transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )


def _longcat(tiny_pipeline):
    from diffusers import LongCatAudioDiTPipeline, LongCatAudioDiTTransformer, LongCatAudioDiTVae
    from transformers import UMT5Config, UMT5EncoderModel

    tokenizer = tiny_pipeline("tango").tokenizer
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=2,
            num_heads=2,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    vae = LongCatAudioDiTVae(
        channels=4,
        c_mults=[1, 2],
        strides=[4, 8],
        latent_dim=4,
        encoder_latent_dim=8,
        downsampling_ratio=32,
        sample_rate=24000,
    )
    transformer = LongCatAudioDiTTransformer(
        dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=8, latent_dim=4, ff_mult=2.0
    )
    like_a_trained_longcat(transformer)
    return LongCatAudioDiTPipeline(
        vae=vae.eval(), text_encoder=text_encoder.eval(), tokenizer=tokenizer, transformer=transformer.eval()
    )


def like_a_trained_longcat(transformer):
    """Modulation, output and GRN are not zero, and the velocity is smooth in time: 95 of 128 frequencies are unused."""
    for module in (transformer.adaln_global_mlp.mlp[-1], transformer.norm_out.linear, transformer.proj_out):
        torch.nn.init.normal_(module.weight, std=0.2)
    for block in transformer.text_conv_layer:
        torch.nn.init.normal_(block.grn.gamma)
        torch.nn.init.normal_(block.grn.beta)
    transformer.time_embed.time_mlp[0].weight.data.unflatten(1, (2, 128))[:, :, :95] = 0


def _ace_step(tiny_pipeline):
    from diffusers import (
        AceStepPipeline,
        AceStepTransformer1DModel,
        AutoencoderOobleck,
        FlowMatchEulerDiscreteScheduler,
    )
    from diffusers.pipelines.ace_step import AceStepConditionEncoder
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = tiny_pipeline("tango").tokenizer
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
        )
    )
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 16}
    condition_encoder = AceStepConditionEncoder(
        hidden_size=12,
        text_hidden_dim=8,
        timbre_hidden_dim=4,
        num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=1,
        **sizes,
    )
    torch.nn.init.normal_(condition_encoder.silence_latent)
    vae = AutoencoderOobleck(
        encoder_hidden_size=8,
        downsampling_ratios=[10, 12, 16],  # 25 latents per second, which the pipelines count on
        channel_multiples=[1, 1, 2],
        decoder_channels=4,
        decoder_input_channels=4,
        audio_channels=2,
        sampling_rate=48000,
    )
    transformer = AceStepTransformer1DModel(
        hidden_size=16,
        encoder_hidden_size=12,
        num_hidden_layers=2,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=3,
        **sizes,
    )
    like_a_trained_ace_step(transformer)
    return AceStepPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        condition_encoder=condition_encoder.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )


def like_a_trained_ace_step(transformer):
    """The velocity is smooth in time: 95 of 128 frequencies are unused."""
    for embedding in (transformer.time_embed, transformer.time_embed_r):
        embedding.linear_1.weight.data.unflatten(1, (2, 128))[:, :, :95] = 0


_MAKERS = {
    "audioldm": _audioldm,
    "musicldm": _musicldm,
    "audioldm2": _audioldm2,
    "tango": _tango,
    "stable_audio": _stable_audio,
    "stable_audio_3": _stable_audio_3,
    "longcat": _longcat,
    "ace_step": _ace_step,
}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
