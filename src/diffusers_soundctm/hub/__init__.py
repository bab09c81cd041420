"""Model folders on disk and on the Hub: what they hold, how they are downloaded and uploaded."""

from .card import model_card, update_card
from .download import DOWNLOAD_ARGUMENTS, UNREACHABLE, download_files, download_model, not_found
from .folders import (
    INDEX,
    KNOWN_SOUNDS,
    KNOWN_SOUNDS_WEIGHTS,
    check_component,
    check_folder,
    check_student,
    components,
    count_parameters,
    embedded_folder,
    files_by_component,
    only_variant,
    read_config,
    read_header,
    read_known_sounds,
    stored_dtype,
)
from .trust import holds_only_our_code, model_to_load
from .upload import push_to_hub, write_loaders, write_repo

__all__ = [
    "DOWNLOAD_ARGUMENTS",
    "INDEX",
    "KNOWN_SOUNDS",
    "KNOWN_SOUNDS_WEIGHTS",
    "UNREACHABLE",
    "check_component",
    "check_folder",
    "check_student",
    "components",
    "count_parameters",
    "download_files",
    "download_model",
    "embedded_folder",
    "files_by_component",
    "holds_only_our_code",
    "model_card",
    "model_to_load",
    "not_found",
    "only_variant",
    "push_to_hub",
    "read_config",
    "read_header",
    "read_known_sounds",
    "stored_dtype",
    "update_card",
    "write_loaders",
    "write_repo",
]
