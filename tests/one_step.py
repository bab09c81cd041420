"""One evaluation of a pipeline's denoiser on fixed inputs, the cheapest output that depends on its weights."""

import torch


@torch.no_grad()
def encode(pipe) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings and mask of a prompt."""
    return pipe.encode_prompt("rain", audio_length_in_s=0.1)[:2]


@torch.no_grad()
def predict(pipe, encoded) -> torch.Tensor:
    """F at the highest noise level, for fixed latents and the result of `encode`."""
    schedule = pipe.scheduler.make_schedule(1)
    shape = (1, *pipe.latent_shape(pipe.sampling_rate // 10))
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return pipe.predict(sample, schedule.timesteps[0], schedule.target_sigmas[0], 3.5, 1.0, encoded, ())
