try:
    from diffusers_soundctm import *  # noqa: F403
except ModuleNotFoundError as error:
    if error.name != "diffusers_soundctm":
        raise
    raise ModuleNotFoundError(
        "This model needs the package diffusers_soundctm, which is not on PyPI. "
        "Install it from a clone of its repository: pip install -e ."
    ) from error
