"""The authors' files, small."""

import pytest
import released

from fake_hub import fake_hub  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def unet_release(tmp_path_factory):
    """Folder of a 16 kHz release."""
    folder = tmp_path_factory.mktemp("sony-unet")
    released.write_unet(folder)
    return folder


@pytest.fixture(scope="session")
def dit_release(tmp_path_factory, tiny_pipeline):
    """Folder of a 44.1 kHz release, v2."""
    folder = tmp_path_factory.mktemp("sony-dit-v2")
    released.write_dit(folder)
    return folder


@pytest.fixture(scope="session")
def clap_tokenizer(tmp_path_factory, tiny_pipeline):
    """Folder of CLAP's tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_pipeline("audioldm").tokenizer.save_pretrained(folder)
    return folder
