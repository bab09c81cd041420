"""The ComfyUI nodes, with stand-ins for the two modules of ComfyUI that they use."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "comfyui"
CORE = {"PreviewAudio": ["AUDIO"], "SaveAudio": ["AUDIO"]}  # nodes of ComfyUI itself, and the types they take


class Interrupted(Exception):
    """Stands in for ComfyUI's InterruptProcessingException."""


@pytest.fixture(scope="module")
def comfy():
    """ComfyUI's state: whether it is interrupted, and what its progress bars showed."""
    state = SimpleNamespace(interrupt_after=None, shown=[])

    class ProgressBar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            state.shown.append((value, total or self.total))

    def throw_exception_if_processing_interrupted():
        if state.interrupt_after is not None and len(state.shown) >= state.interrupt_after:
            raise Interrupted

    modules = {name: ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils")}
    management = modules["comfy.model_management"]
    management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted
    management.get_torch_device = lambda: torch.device("cpu")
    modules["comfy.utils"].ProgressBar = ProgressBar
    modules["comfy"].model_management, modules["comfy"].utils = management, modules["comfy.utils"]
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        yield state


@pytest.fixture(scope="module")
def nodes(comfy):
    """The nodes by name, imported as ComfyUI imports a folder."""
    spec = importlib.util.spec_from_file_location("soundctm_nodes", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "soundctm_nodes", module)
        spec.loader.exec_module(module)
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    return module.NODE_CLASS_MAPPINGS


@pytest.fixture(autouse=True)
def fresh(comfy):
    comfy.interrupt_after, comfy.shown = None, []


@pytest.fixture(scope="module")
def model(nodes, embedded_folder):
    (model,) = nodes["SoundCTMLoad"]().load(str(embedded_folder), "float32")
    return model


def inputs_of(node):
    return node.INPUT_TYPES()["required"]


def run(nodes, name, **inputs):
    """Call a node as ComfyUI does, with the defaults of the inputs that are not given."""
    node = nodes[name]
    defaults = {key: one[1]["default"] for key, one in inputs_of(node).items() if len(one) > 1}
    return getattr(node(), node.FUNCTION)(**defaults | inputs)


def test_nodes_follow_the_contract(nodes):
    for name, node in nodes.items():
        assert node.CATEGORY == "audio/SoundCTM" and node.__doc__, name
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) and callable(getattr(node, node.FUNCTION))
        for kind, *options in inputs_of(node).values():
            assert isinstance(kind, list) or kind.isupper()
            assert not options or options[0].get("default") is not None
    assert inputs_of(nodes["SoundCTMDraft"])["seed"][1]["control_after_generate"]


def test_a_draft_is_refined_drawn_looped_and_filled(nodes, model, comfy):
    audio, sounds = run(nodes, "SoundCTMDraft", model=model, prompt="rain", seed=3, drafts=2, seconds=0.6)
    assert audio["waveform"].shape == (2, 1, 9600) and audio["waveform"].dtype == torch.float32
    assert audio["sample_rate"] == 16000 and not torch.equal(*audio["waveform"])
    assert comfy.shown == [(1, 2), (2, 2)]
    again, _ = run(nodes, "SoundCTMRefine", model=model, sounds=sounds, number=2, steps=1)
    assert torch.equal(again["waveform"][0], audio["waveform"][1])
    comfy.shown = []
    refined, finer = run(nodes, "SoundCTMRefine", model=model, sounds=sounds, number=2, steps=2)
    assert comfy.shown == [(1, 2), (2, 2)] and not torch.equal(refined["waveform"], again["waveform"])
    for name, own in (("SoundCTMDrawLoudness", {"curve": "-50, -20 -50"}), ("SoundCTMLoop", {})):
        made, (recipe,) = run(nodes, name, model=model, sounds=finer, steps=2, **own)
        assert made["waveform"].shape[:2] == (1, 1) and (recipe.curve == (-50, -20, -50)) == bool(own)
    source = {"waveform": torch.randn(2, 1, 8820, generator=torch.Generator().manual_seed(0)) / 9, "sample_rate": 11025}
    options = {"prompt": "wind", "start": 0.3, "end": 0.5, "steps": 1}
    (filled,) = run(nodes, "SoundCTMInpaint", model=model, audio=source, **options)
    assert filled["waveform"].shape == (2, 1, 12800) and filled["sample_rate"] == 16000


def test_cancel_stops_at_the_next_step(nodes, model, comfy):
    _, sounds = run(nodes, "SoundCTMDraft", model=model, prompt="wind", seed=9, drafts=1, seconds=0.6)
    comfy.shown, comfy.interrupt_after = [], 2
    with pytest.raises(Interrupted):
        run(nodes, "SoundCTMRefine", model=model, sounds=sounds, number=1, steps=8)
    assert comfy.shown == [(1, 8), (2, 8)]
    comfy.interrupt_after = None
    run(nodes, "SoundCTMRefine", model=model, sounds=sounds, number=1, steps=2)  # the model is free again


@pytest.mark.parametrize(("number", "curve", "named"), [(3, "-50 -20", "from 1 to 1"), (1, "loud", "'loud'")])
def test_wrong_inputs_are_named(number, curve, named, nodes, model):
    _, sounds = run(nodes, "SoundCTMDraft", model=model, prompt="rain", seed=3, drafts=1, seconds=0.6)
    with pytest.raises(ValueError, match=named):
        run(nodes, "SoundCTMDrawLoudness", model=model, sounds=sounds, number=number, steps=1, curve=curve)


def test_the_saved_workflow_runs(nodes, model):
    """A small executor: inputs of a node are values, or the number of another node and of its output."""
    workflow = json.loads((FOLDER / "workflow_api.json").read_text())
    results, smaller = {"1": (model,)}, {"seconds": 0.6, "start": 0.2, "end": 0.4, "steps": 1}
    for number, node in list(workflow.items())[1:]:
        kind, given = node["class_type"], {}
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                source = nodes[workflow[value[0]]["class_type"]]
                wanted = CORE.get(kind) or inputs_of(nodes[kind])[name]
                assert source.RETURN_TYPES[value[1]] == wanted[0]
                given[name] = results[value[0]][value[1]]
            else:
                given[name] = smaller.get(name, value)
        if kind in nodes:
            assert set(given) == set(inputs_of(nodes[kind]))
            results[number] = run(nodes, kind, **given)
    assert all(results[number][0]["waveform"].abs().max() > 0 for number in ("5", "6", "7"))
