"""Training that is stopped, killed, poisoned or out of disk: what is left, and that resuming loses nothing."""

import errno
import json
import shutil
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from diffusers_soundctm.training import checkpoints, preflight
from diffusers_soundctm.training.counters import RunningLosses, SkippedSteps
from diffusers_soundctm.training.optimizers import scaler_state, step_if_finite
from diffusers_soundctm.training.signals import StopSignal
from runs import arguments, distil, load, start
from tiny_teachers import make_teacher

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
RUN = {"max_train_steps": 10, "checkpointing_steps": 3, "train_batch_size": 2}


@pytest.fixture(scope="module")
def inputs(training_inputs, tmp_path_factory, tiny_pipeline):
    root = tmp_path_factory.mktemp("inputs")
    make_teacher("audioldm", root / "teacher", tiny_pipeline)
    return {
        "dataset_name": training_inputs["dataset_name"],
        "teacher_model": root / "teacher",
        "num_samples": 5120,
        "cache_dir": root / "cache",
    }


@pytest.fixture(scope="module")
def uninterrupted(inputs, tmp_path_factory):
    return load_file(distil(tmp_path_factory.mktemp("runs") / "whole", **inputs, **RUN) / WEIGHTS)


def assert_same(weights, others):
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name


def test_a_signal_writes_a_checkpoint_and_ends_well(inputs, uninterrupted, tmp_path, monkeypatch):
    """The signal arrives in the middle of step 2."""
    module = load("train_ctm")
    at, seen = module.TripleStream.at, []

    def signalled(self, step):
        seen.append(step)
        if step == 1:
            signal.raise_signal(signal.SIGTERM)
        return at(self, step)

    monkeypatch.setattr("diffusers_soundctm.distillation.trajectories.TripleStream.at", signalled)
    distil(tmp_path, **inputs, **RUN)
    assert seen == [0, 1]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.undo()
    resumed = distil(tmp_path, **inputs, **RUN, resume_from_checkpoint="latest")
    assert_same(load_file(resumed / WEIGHTS), uninterrupted)
    # two are kept
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-6", "checkpoint-9"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signalled_process_exits_with_0(inputs, tmp_path, number):
    process = start(tmp_path, **inputs, **{**RUN, "max_train_steps": 100_000})
    deadline = time.time() + 120
    while not list(tmp_path.glob("checkpoint-*")) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Stopped by a signal" in output


# Where a process kills itself: between steps, and while it writes a checkpoint or the model.
KILL_POINTS = {
    "in a step": "import diffusers_soundctm.distillation.trajectories as m; f = m.TripleStream.at\n"
    "def at(self, step):\n    kill() if step == 7 else None\n    return f(self, step)\nm.TripleStream.at = at",
    "before a checkpoint": "import diffusers_soundctm.training.checkpoints as m; f = m.save_checkpoint\n"
    "def save(folder, step, *a):\n    kill() if step == 6 else None\n    return f(folder, step, *a)\n"
    "m.save_checkpoint = save",
    "inside a checkpoint": "import torch; f = torch.save\ndef save(stored, file):\n"
    "    if stored.get('step') == 6:\n        file.write(b'half'); file.flush(); kill()\n    return f(stored, file)\n"
    "torch.save = save",
    "between file and rename": "import pathlib; f = pathlib.Path.replace\n"
    "def replace(self, to):\n    kill() if pathlib.Path(to).name == 'checkpoint-6' else None\n    return f(self, to)\n"
    "pathlib.Path.replace = replace",
    "inside the model": "import pathlib; f = pathlib.Path.replace; seen = []\n"
    "def replace(self, to):\n    seen.append(pathlib.Path(to).name)\n"
    "    kill() if seen.count('unet') == 2 else None\n    return f(self, to)\npathlib.Path.replace = replace",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", KILL_POINTS)
def test_killed_and_resumed_is_never_killed(inputs, uninterrupted, tmp_path, where):
    prologue = "import os, signal\ndef kill():\n    os.kill(os.getpid(), signal.SIGKILL)\n" + KILL_POINTS[where]
    process = start(tmp_path, prologue, **inputs, **RUN)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, output
    assert checkpoints.latest_checkpoint(tmp_path).name == (
        "checkpoint-6" if where in ("in a step", "inside the model") else "checkpoint-3"
    )
    resumed = distil(tmp_path, **inputs, **RUN, resume_from_checkpoint="latest")
    assert_same(load_file(resumed / WEIGHTS), uninterrupted)
    assert not list(tmp_path.glob(".*.unfinished"))


def poison(monkeypatch, *steps):
    module = load("train_ctm")
    at = module.TripleStream.at

    def poisoned(self, step):
        triples, noisy = at(self, step)
        if step in steps:
            triples.start = triples.start * float("nan")
        return triples, noisy

    monkeypatch.setattr("diffusers_soundctm.distillation.trajectories.TripleStream.at", poisoned)


def test_a_step_without_finite_loss_is_skipped_and_counted(inputs, tmp_path, monkeypatch):
    poison(monkeypatch, 1, 4)
    run = {**inputs, **RUN, "max_train_steps": 5, "checkpointing_steps": 5}
    folder = distil(tmp_path, **run)
    assert '"skipped_steps": 2' in (folder / "training.json").read_text()
    assert all(tensor.isfinite().all() for tensor in load_file(folder / WEIGHTS).values())
    record = json.loads((folder / "training.json").read_text())
    distil(tmp_path, **run, resume_from_checkpoint="latest")  # nothing is left to do
    resumed = json.loads((folder / "training.json").read_text())
    assert resumed["skipped_steps"] == 2 and resumed["losses"] == record["losses"] != {}


def test_too_many_in_a_row_end_with_advice(inputs, tmp_path, monkeypatch):
    poison(monkeypatch, *range(4, 10))
    with pytest.raises(FloatingPointError, match=r"3 steps in a row.*--learning_rate"):
        distil(tmp_path, **inputs, **RUN, max_skipped_steps=3)
    assert checkpoints.latest_checkpoint(tmp_path).name == "checkpoint-6"


def test_skips_in_a_row_are_told_from_skips_in_all():
    skips = SkippedSteps(2)
    for skipped in (True, False, True, False):
        skips.record(skipped)
    assert (skips.total, skips.in_a_row) == (2, 0)


def test_a_scaler_is_told_of_overflows_until_the_gradient_is_finite_and_resumes(monkeypatch, tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True)
    # accelerate keeps fp16 for GPUs, torch does not. Twice, 2^119 times the gradient, 2^10, is beyond float32.
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**119)
    monkeypatch.setattr(accelerator.state, "_mixed_precision", "fp16")
    model = torch.nn.Linear(1, 1, bias=False)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    before, finite = model.weight.item(), []
    for _ in range(3):
        accelerator.backward(2.0**10 * model.weight.sum())
        finite.append(step_if_finite(accelerator, optimizer, model.parameters(), 1.0))
        optimizer.zero_grad()
    assert finite == [False, False, True]
    assert model.weight.item() == pytest.approx(before - 0.1)
    state = scaler_state(accelerator)
    checkpoints.save_checkpoint(tmp_path, 3, state)
    accelerator.scaler.update(1.0)
    checkpoints.load_checkpoint(tmp_path / "checkpoint-3", state)
    assert accelerator.scaler.get_scale() == 2.0**117  # halved twice


def test_signals_are_handed_back():
    before = signal.getsignal(signal.SIGUSR1)
    with StopSignal() as stop:
        assert signal.getsignal(signal.SIGUSR1) is before
        stop.start()
        signal.raise_signal(signal.SIGUSR1)
    assert stop.requested and signal.getsignal(signal.SIGUSR1) is before


# Where a script gets a signal outside the loop, and what it says.
MOMENTS = {
    "slow imports": ("class Stop:\n    def find_spec(self, name, *more):\n        if name == 'torch': stop()\n"
                     "sys.meta_path.insert(0, Stop())", "Start the same command again"),
    "set-up": ("import diffusers_soundctm.training.loop as m\nm.remove_unfinished = lambda folder: stop()",
               "Start the same command again"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_outside_the_loop_ends_the_script_at_once_and_well(inputs, tmp_path, moment):
    code, message = MOMENTS[moment]
    stop = "import os, signal, sys\ndef stop(): os.kill(os.getpid(), signal.SIGTERM)\n"
    process = start(tmp_path / "run", stop + code, **inputs, **RUN)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0 and message in output and "Traceback" not in output, output
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_signal_after_the_last_step_lets_the_run_end(inputs, tmp_path, monkeypatch):
    """The model is written whole, and what follows, such as an upload, too."""
    module, seen = load("train_ctm"), []

    def publish(self, record):
        signal.raise_signal(signal.SIGTERM)
        seen.append(record["steps"])

    monkeypatch.setattr(module.DistillationRecipe, "publish", publish)
    module.main(arguments(output_dir=tmp_path, **inputs, **{**RUN, "max_train_steps": 1}))
    assert seen == [1] and (tmp_path / WEIGHTS).is_file()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    state = {"net": torch.nn.Linear(2, 2)}
    checkpoints.save_checkpoint(tmp_path, 3, state)

    def full(stored, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"No space left.*checkpoint-3 is intact.*make room.*--resume_from_checkpoint"):
        checkpoints.save_checkpoint(tmp_path, 6, state)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
    assert checkpoints.load_checkpoint(tmp_path / "checkpoint-3", state) == 3


def test_checkpoints_of_later_steps_do_not_push_out_new_ones(tmp_path):
    for step in (3800, 4000, 200, 400, 600):
        checkpoints.save_checkpoint(tmp_path, step, {}, total_limit=2)
        assert (tmp_path / f"checkpoint-{step}").is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {f"checkpoint-{step}" for step in (400, 600, 3800, 4000)}


def test_older_checkpoints_and_those_of_another_precision_go_on(tmp_path):
    net, scaler = torch.nn.Linear(2, 2), torch.amp.GradScaler("cpu")
    skips, running = SkippedSteps(3), RunningLosses()
    checkpoints.save_checkpoint(tmp_path, 3, {"net": net, "scaler": scaler})
    state = {"net": net, "skips": skips, "losses": running}
    assert checkpoints.load_checkpoint(tmp_path / "checkpoint-3", state) == 3
    assert (skips.total, running) == (0, {})
    skips.record(True)
    running.record({"ctm": 2.0}, 0.1)
    running.record({"ctm": 1.0}, 0.1)
    checkpoints.save_checkpoint(tmp_path, 4, state)
    state = {"net": net, "skips": SkippedSteps(3), "losses": RunningLosses(), "scaler": scaler}
    assert checkpoints.load_checkpoint(tmp_path / "checkpoint-4", state) == 4
    assert (state["skips"].total, state["losses"]) == (1, pytest.approx({"ctm": 1.9}))


def scheduled(rate, done):
    """Optimizer and scheduler after `done` steps, with a learning rate that halves in each."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(done):
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


@pytest.mark.parametrize("rate", [0.3, 0.01])
def test_a_resumed_run_has_the_learning_rate_it_is_given(tmp_path, rate):
    optimizer, scheduler = scheduled(0.3, done=2)
    checkpoints.save_checkpoint(tmp_path, 2, {"optimizer": optimizer, "lr": scheduler})
    optimizer, scheduler = scheduled(rate, done=0)
    checkpoints.load_checkpoint(tmp_path / "checkpoint-2", {"optimizer": optimizer, "lr": scheduler})
    checkpoints.set_learning_rate(scheduler, rate)
    for done in (2, 3):
        assert optimizer.param_groups[0]["lr"] == rate * 0.5**done
        optimizer.step()
        scheduler.step()


def test_checkpoints_already_there_need_no_room(tmp_path, monkeypatch):
    """A checkpoint has 16 kB, and three of them are on disk at once."""
    teacher = SimpleNamespace(network=torch.nn.Linear(1000, 1, bias=False))
    args = SimpleNamespace(output_dir=str(tmp_path), checkpoints_total_limit=2)
    free = {"free": 20_000}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(**free))
    assert len(preflight._disk_problems(args, teacher)) == 1
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state.pt").write_bytes(bytes(16_000))
    assert not preflight._disk_problems(args, teacher)
    free["free"] = 10_000  # the new one is whole before the oldest goes
    assert len(preflight._disk_problems(args, teacher)) == 1


def test_saving_a_step_again_replaces_it_whole(tmp_path):
    net = torch.nn.Linear(2, 2)
    checkpoints.save_checkpoint(tmp_path, 3, {"net": net})
    net.weight.data.zero_()
    checkpoints.save_checkpoint(tmp_path, 3, {"net": net})
    net.weight.data.fill_(7)
    checkpoints.load_checkpoint(tmp_path / "checkpoint-3", {"net": net})
    assert net.weight.abs().max() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_checkpoint_of_other_networks_says_so(tmp_path):
    checkpoints.save_checkpoint(tmp_path, 3, {"net": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="does not fit this run's networks"):
        checkpoints.load_checkpoint(tmp_path / "checkpoint-3", {"net": torch.nn.Linear(3, 2)})
    shutil.rmtree(tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match=r"has no state\.pt"):
        checkpoints.load_checkpoint(tmp_path / "checkpoint-3", {})


def test_a_run_says_where_it_begins(tmp_path, capsys):
    state = {"net": torch.nn.Linear(2, 2)}
    assert checkpoints.resume(None, tmp_path, state) == 0
    assert not capsys.readouterr().out
    assert checkpoints.resume("latest", tmp_path, state) == 0
    assert "no checkpoint" in capsys.readouterr().out
    checkpoints.save_checkpoint(tmp_path, 3, state)
    assert checkpoints.resume("latest", tmp_path, state) == 3
    assert "checkpoint-3" in capsys.readouterr().out
