"""Number formats: the error of a jump by format, and what full float32 does to torch's settings."""

import threading

import pytest
import torch

from diffusers_soundctm.precision import (
    MAX_JUMP_ERROR,
    STABLE_AUDIO_3_FACTOR,
    TF32,
    full_float32,
    is_precise,
    jump_error,
    stored_warning,
)

HALF = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_for_networks_whose_errors_are_not_amplified(dtype):
    for prediction_type in ("edm", "v_prediction", "sample", "flow", "inverted_flow"):
        assert is_precise(dtype, 500.0, prediction_type)
    assert not is_precise(dtype, 83.8, "epsilon")
    assert is_precise(dtype, 492.7, "flow", factor=STABLE_AUDIO_3_FACTOR) == (dtype == torch.float16)
    assert not is_precise(TF32, 83.8, "epsilon")
    assert is_precise(torch.float32, 83.8, "epsilon")


def test_the_error_of_an_epsilon_jump_is_proportional_to_its_level():
    assert jump_error(torch.bfloat16, 80.0, "epsilon") == pytest.approx(16 * jump_error(torch.bfloat16, 5.0, "epsilon"))
    assert is_precise(torch.float16, 5.0, "epsilon") and not is_precise(torch.float16, 20.0, "epsilon")


def test_rounding_of_the_output_alone_is_within_the_error_that_is_assumed():
    """A network rounds more than its output, so the table must be above what rounding the output gives."""
    output = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    for dtype in HALF:
        rounding = (output.to(dtype).float() - output).std().item()
        assert MAX_JUMP_ERROR > jump_error(dtype, 80.0, "v_prediction") > 2 * rounding


@pytest.mark.parametrize("dtype", HALF)
def test_stored_weights_cost_less_than_half_precision_and_are_named_where_they_count(dtype):
    cost = jump_error(dtype, 83.8, "epsilon", stored=True)
    assert MAX_JUMP_ERROR < cost < jump_error(dtype, 83.8, "epsilon")
    warning = stored_warning("unet", dtype, 83.8, "epsilon")
    assert f"stored in {dtype}" in warning and f"{cost:.0%}" in warning
    assert stored_warning("unet", torch.float32, 83.8, "epsilon") is None
    assert stored_warning("transformer", dtype, 500.0, "flow") is None


@pytest.fixture
def tf32():
    """TF32 in convolutions, as torch sets it by default, and in products."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = True
    yield lambda: (cudnn.allow_tf32, matmul.allow_tf32)
    cudnn.allow_tf32, matmul.allow_tf32 = before


def test_tf32_is_off_while_it_would_be_too_coarse(tf32):
    with full_float32(83.8, "epsilon"):
        assert tf32() == (False, False)
    assert tf32() == (True, True)
    with full_float32(83.8, "v_prediction"):
        assert tf32() == (True, True)
    with pytest.raises(RuntimeError, match="inside"), full_float32(83.8, "epsilon"):
        raise RuntimeError("inside")
    assert tf32() == (True, True)


def test_overlapping_threads_restore_tf32_when_the_last_one_ends(tf32):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with full_float32(83.8, "epsilon"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with full_float32(83.8, "epsilon"):
        thread.start()
        assert inside.wait(10)
    assert tf32() == (False, False)
    leave.set()
    thread.join()
    assert tf32() == (True, True)
