"""Answer requests to a Hugging Face Inference Endpoint.

Request: {"inputs": prompt, "parameters": {"seed": 0, "num_inference_steps": 4, ...}}.
Answer: {"audio": base64 of a WAV file, "sampling_rate": Hz}.
"""

import base64
import io

import soundfile
import torch

try:
    from diffusers_soundctm import SoundCTMPipeline
except ModuleNotFoundError as error:
    if error.name != "diffusers_soundctm":
        raise
    raise ModuleNotFoundError(
        "This model needs the package diffusers_soundctm, which is not on PyPI. "
        "Build the endpoint from a container image with a clone of its repository: pip install -e ."
    ) from error


class EndpointHandler:
    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float16 if device == "cuda" else torch.float32
        self.pipe = SoundCTMPipeline.from_pretrained(path, torch_dtype=dtype).to(device)

    def __call__(self, data: dict) -> dict:
        parameters = dict(data.get("parameters") or {})
        if "seed" in parameters:
            parameters["generator"] = torch.Generator().manual_seed(int(parameters.pop("seed")))
        audio = self.pipe(data["inputs"], **parameters).audios[0]
        audio = audio / max(1, abs(audio).max())  # scaled down, not clipped
        file = io.BytesIO()
        soundfile.write(file, audio.T, self.pipe.sampling_rate, format="WAV")
        return {"audio": base64.b64encode(file.getvalue()).decode(), "sampling_rate": self.pipe.sampling_rate}
