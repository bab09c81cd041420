"""Tiny pipelines of each family, real components with random weights."""

from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
GOLDEN = FIXTURES / "golden"
WORDS = "a an and bark barks dog drum loud of on piano plays quiet rain roof tin train wind"


def _bert():
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return BertModel(config), BertTokenizer(vocab=dict(zip(words, range(99), strict=False)))


def _t5():
    from transformers import AutoTokenizer, T5EncoderModel

    return T5EncoderModel.from_pretrained(GOLDEN / "tiny-t5"), AutoTokenizer.from_pretrained(GOLDEN / "tiny-t5")


def _clap(hidden_size: int = 16, projection: bool = True):
    from transformers import ClapTextConfig, ClapTextModel, ClapTextModelWithProjection, RobertaTokenizer

    characters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz", "Ġ"]
    config = ClapTextConfig(
        vocab_size=len(characters),
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        projection_dim=12,
        max_position_embeddings=64,
    )
    tokenizer = RobertaTokenizer(vocab=dict(zip(characters, range(99), strict=False)), merges=[], model_max_length=60)
    return (ClapTextModelWithProjection if projection else ClapTextModel)(config), tokenizer


def _hifigan():
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[10, 16],
            upsample_kernel_sizes=[20, 32],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
            normalize_before=False,
        )
    )
    for parameter in vocoder.parameters():
        parameter.data *= 10  # as initialized, its output is too small to tell two sounds apart
    return vocoder


def _istft_vocoder():
    from diffusers_soundctm import ISTFTVocoder

    return ISTFTVocoder(hidden_size=16, num_layers=1, intermediate_size=32)


def _dit_pipeline():
    import torch

    from diffusers_soundctm import AutoencoderDAC, CTMAudioDiTModel, CTMScheduler, SoundCTMPipeline

    text_encoder, tokenizer = _clap(hidden_size=32, projection=False)
    vae = AutoencoderDAC(
        4,
        (4, 8, 10),
        32,
        latent_channels=6,
        sampling_rate=16000,
        latents_mean=torch.linspace(-1, 1, 6).tolist(),
        latents_std=torch.linspace(0.5, 2, 6).tolist(),
    )
    transformer = CTMAudioDiTModel(
        sample_size=64,
        in_channels=6,
        out_channels=6,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=32,
        cross_attention_input_dim=32,
        time_proj_dim=16,
    )
    return SoundCTMPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=None,
        transformer=transformer.eval(),
        scheduler=CTMScheduler(),
        vocoder=None,
        guidance_scale_range=(2.0, 5.0),
    )


def make_pipeline(family: str):
    """A tiny pipeline: "embedded" (BERT, also as class label), "tango" (T5), "audioldm" (CLAP as class label) or "dit"
    (CLAP as the one token of a transformer over latents of waveforms).
    """
    import torch
    from diffusers import AutoencoderKL

    from diffusers_soundctm import CTMScheduler, CTMUNet2DConditionModel, SoundCTMPipeline

    torch.manual_seed(0)
    if family == "dit":
        pipe = _dit_pipeline()
        pipe.set_progress_bar_config(disable=True)
        return pipe
    text_encoder, tokenizer = {"embedded": _bert, "tango": _t5, "audioldm": _clap}[family]()
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    condition = {
        "embedded": {
            "cross_attention_dim": 16,
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 16,
        },
        "tango": {"cross_attention_dim": text_encoder.config.hidden_size},
        "audioldm": {
            "cross_attention_dim": [8, 16],
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 12,
            "class_embeddings_concat": True,
        },
    }[family]
    # AudioLDM's is an epsilon-prediction teacher on discrete steps; the others are EDM.
    prediction_type = "epsilon" if family == "audioldm" else "edm"
    unet = CTMUNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=8,
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        prediction_type=prediction_type,
        **condition,
    )
    pipe = SoundCTMPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=CTMScheduler(prediction_type=prediction_type),
        vocoder=(_istft_vocoder() if family == "embedded" else _hifigan()).eval(),
        guidance_scale_range=(2.0, 5.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
