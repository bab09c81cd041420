"""From a prompt to what the network wants: one small class a teacher family, used by the pipeline and by training."""

import torch
import torch.nn.functional as F

# Tokenizers without a limit of their own report a huge number; no text encoder of these families reads more than this.
MAX_TOKENS = 512


def conditioning_for(unet, text_encoder=None, tokenizer=None) -> "PromptConditioning":
    """The conditioning that `unet.config` asks for; without a text encoder only `network_kwargs` can be used."""
    if is_transformer(unet.config):
        return SentenceTokenConditioning(unet.config, text_encoder, tokenizer)
    widths = unet.config.cross_attention_dim
    # AudioLDM's "cross-attention" is as wide as the block it sits in: it attends to the block itself, not to text.
    attends_to_itself = isinstance(widths, (list, tuple)) and list(widths) == list(unet.config.block_out_channels)
    family = ClassLabelConditioning if attends_to_itself else CrossAttentionConditioning
    return family(unet.config, text_encoder, tokenizer)


def is_transformer(unet_config) -> bool:
    """Whether the network is a transformer over latents (B, C, time), not a UNet over (B, C, time, width)."""
    return "cross_attention_input_dim" in unet_config


class PromptConditioning:
    """Encodes prompts once, then turns the stored tensors into keyword arguments of the network.

    `prompt_embeds_ndim` is the rank of the tensor `encode` returns, `width` its last dimension.
    """

    prompt_embeds_ndim: int
    width: int

    def __init__(self, unet_config, text_encoder=None, tokenizer=None):
        self.config = unet_config
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer

    def encode(self, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prompts → (prompt_embeds, attention_mask or None), in the text encoder's dtype."""
        raise NotImplementedError

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Keyword arguments for `unet(sample, timestep, ...)`: a pure function of these tensors and `unet.config`."""
        raise NotImplementedError

    def _tokenize(self, prompts: list[str], device: torch.device):
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("Prompts need a text_encoder and a tokenizer; load both or pass `prompt_embeds` instead.")
        max_length = min(self.tokenizer.model_max_length, MAX_TOKENS)
        tokens = self.tokenizer(prompts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        return tokens.input_ids.to(device), tokens.attention_mask.to(device)


class CrossAttentionConditioning(PromptConditioning):
    """Tango, embedded model: hidden states (B, L, width) of a T5 or BERT, attended to under a boolean mask (B, L).

    A network with `class_embed_type="simple_projection"` also gets the sentence embedding, the L2-normalised masked
    mean of the hidden states, as its class label.
    """

    prompt_embeds_ndim = 3

    @property
    def width(self) -> int:
        projected = self.config.encoder_hid_dim
        widths = self.config.cross_attention_dim if projected is None else projected
        return widths if isinstance(widths, int) else widths[0]

    @torch.no_grad()
    def encode(self, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids, attention_mask = self._tokenize(prompts, device)
        hidden_states = self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden_states, attention_mask.bool()

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        kwargs = {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask}
        if self.config.class_embed_type == "simple_projection":
            kwargs["class_labels"] = sentence_embedding(prompt_embeds, attention_mask)
        return kwargs


class ClassLabelConditioning(PromptConditioning):
    """AudioLDM: the L2-normalised CLAP text embedding (B, width) is the class label; no cross-attention, no mask."""

    prompt_embeds_ndim = 2

    @property
    def width(self) -> int:
        return self.config.projection_class_embeddings_input_dim

    @torch.no_grad()
    def encode(self, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, None]:
        input_ids, attention_mask = self._tokenize(prompts, device)
        return F.normalize(self.text_encoder(input_ids, attention_mask=attention_mask).text_embeds, dim=-1), None

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        return {"encoder_hidden_states": None, "class_labels": prompt_embeds}


class SentenceTokenConditioning(PromptConditioning):
    """44.1 kHz SoundCTM: the L2-normalised CLAP embedding of the prompt, (B, 1, width), is the one token attended to.

    With a `ClapTextModelWithProjection` it is the one shared with sounds, with a `ClapTextModel` the pooled output.
    """

    prompt_embeds_ndim = 3

    @property
    def width(self) -> int:
        return self.config.cross_attention_input_dim

    @torch.no_grad()
    def encode(self, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids, attention_mask = self._tokenize(prompts, device)
        output = self.text_encoder(input_ids, attention_mask=attention_mask)
        embeds = F.normalize(output.text_embeds if "text_embeds" in output else output.pooler_output, dim=-1)
        return embeds[:, None], torch.ones(len(prompts), 1, dtype=torch.bool, device=device)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        return {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask}


def sentence_embedding(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """L2-normalised mean over the tokens the mask keeps, (B, L, width) and (B, L) → (B, width), summed in float32."""
    weights = hidden_states.new_ones(hidden_states.shape[:2]) if attention_mask is None else attention_mask
    weights = weights[..., None].float()
    mean = (hidden_states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return F.normalize(mean, dim=-1).to(hidden_states.dtype)
