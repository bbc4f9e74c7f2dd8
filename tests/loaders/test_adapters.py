"""LoRAs as sliders: what diffusers' own adapters do, by name, and nothing left behind."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from loras import lora_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import eigenbank as eb
from eigenbank.loaders.active_edit import UnmetWarning
from eigenbank.loaders.adapters import _randomise
from eigenbank.loaders.measure import PipelineMeasurements
from eigenbank.loaders.sample import sample
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.schemas.errors import ExportError, FuseError, MatchError, SetError, SourceError, SteerError

pytest.importorskip("peft")
PROMPT = "a cat"


def opened(kind: str, folder: Path) -> Any:
    return eb.open_pipeline(tiny_pipelines.save(kind, folder), device="cpu")


def picture(pipe: Any, seed: int = 3) -> Tensor:
    return sample(pipe, [seed], 2, prompt=PROMPT, size=(32, 32))


def state(pipe: Any) -> list[Any]:
    """Everything that an adapter might leave behind: modules, attributes, weights and which of them are trained."""
    return [
        (
            name,
            type(module),
            sorted(vars(module)),
            [(each.requires_grad, each.data_ptr()) for each in module.parameters(recurse=False)],
        )
        for part in pipe.components.values()
        if isinstance(part, nn.Module)
        for name, module in part.named_modules()
    ]


pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("kind", "part", "form"), [("sd", "unet", "peft"), ("sdxl", "unet", "kohya"), ("flux", "transformer", "peft")]
)
def test_a_lora_does_what_diffusers_does_with_it_and_leaves_no_trace(
    kind: str, part: str, form: str, tmp_path: Path
) -> None:
    pipe = opened(kind, tmp_path / "model")
    file = lora_of(getattr(pipe, part), part, tmp_path / "smile.safetensors", form=form)
    bank = eb.build(pipe, top_k=1).import_lora(file, "smile")
    plain = picture(pipe)
    before = state(pipe)
    with eb.steer(pipe, {"smile": 0.7}, bank=bank):
        ours = picture(pipe)
    assert state(pipe) == before
    assert torch.equal(picture(pipe), plain)
    pipe.load_lora_weights(str(file), adapter_name="theirs")
    pipe.set_adapters(["theirs"], [0.7])
    assert not torch.allclose(ours, plain, atol=1e-3)
    assert torch.equal(ours, picture(pipe))


def test_beside_directions_and_somebodys_own_adapter(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    own = lora_of(pipe.unet, "unet", tmp_path / "own.safetensors", every=2)
    bank = eb.build(pipe, top_k=1).import_lora(lora_of(pipe.unet, "unet", tmp_path / "a.safetensors"), "smile")
    direction = next(iter(bank))
    pipe.load_lora_weights(str(own), adapter_name="own")
    pipe.set_adapters(["own"], [0.5])
    plain = picture(pipe)
    with eb.steer(pipe, {"smile": 1.0}, bank=bank) as edit:
        alone = picture(pipe)
        edit.set_scale(0.0)
        assert torch.allclose(picture(pipe), plain, atol=1e-5)
        edit.set_scale(1.0)
        edit.set_scale(2.0, "smile")
        stronger = picture(pipe)
    assert pipe.get_active_adapters() == ["own"]
    assert torch.equal(picture(pipe), plain)
    with eb.steer(pipe, {direction: 1.0}, bank=bank):
        turned = picture(pipe)
    with eb.steer(pipe, {"smile": 1.0, direction: 1.0}, bank=bank):
        both = picture(pipe)
    # Nested, and removed in the order they came.
    first, second = (
        eb.steer(pipe, {"smile": 1.0}, bank=bank).attach(),
        eb.steer(pipe, {"smile": 1.0}, bank=bank).attach(),
    )
    twice = picture(pipe)
    first.remove()
    once = picture(pipe)
    second.remove()
    assert torch.equal(picture(pipe), plain)
    assert torch.allclose(once, alone, atol=1e-6)
    assert torch.allclose(twice, stronger, atol=1e-4)
    different = [plain, alone, stronger, turned, both]
    assert all(not torch.allclose(a, b, atol=1e-4) for n, a in enumerate(different) for b in different[:n])


def test_the_text_encoders_part_of_a_lora_acts_and_goes(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    file = lora_of(pipe.unet, "unet", tmp_path / "a.safetensors")
    tensors = load_file(file)
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    width = pipe.text_encoder.config.hidden_size
    tensors |= {f"{name}.lora_A.weight": torch.randn(2, width), f"{name}.lora_B.weight": torch.randn(width, 2)}
    save_file(tensors, file)
    bank = eb.build(pipe, top_k=1).import_lora(file, "smile")
    before = state(pipe)
    with eb.steer(pipe, {"smile": 1.0}, bank=bank):
        assert "peft_config" in vars(pipe.text_encoder)
    assert state(pipe) == before


def test_what_an_adapter_cannot_do_is_refused(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(lora_of(pipe.unet, "unet", tmp_path / "a.safetensors"), "smile")
    before = state(pipe)
    for more in (
        {"window": (0, 0.5)},
        {"branch": "cond"},
        {"site": "output"},
        {"mask": torch.ones(8, 8)},
        {"fuse": True},
    ):
        with pytest.raises((SteerError, FuseError), match="LoRA"):
            eb.steer(pipe, {"smile": 1.0}, bank=bank, **more)
    for scale in ([1.0, 0.5], eb.ramp(0, 1)):
        with pytest.raises(SteerError):
            eb.steer(pipe, {"smile": scale}, bank=bank)
    with pytest.raises(SteerError, match="takes no LoRAs"):
        eb.steer(pipe.unet, {"smile": 1.0}, bank=bank).attach()
    with pytest.raises(ExportError, match="is a LoRA file already"):
        eb.export(bank, {"smile": 1.0}, tmp_path / "out.safetensors", pipe=pipe)
    assert state(pipe) == before


def test_a_lora_of_another_model_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    pipe, other = opened("sd", tmp_path / "model"), opened("flux", tmp_path / "other")
    foreign = lora_of(other.transformer, "transformer", tmp_path / "a.safetensors")
    half = load_file(lora_of(pipe.unet, "unet", tmp_path / "b.safetensors"))
    half |= {f"unet.nowhere.{n}.to_q.lora_{m}.weight": torch.ones(2, 2) for n in range(3) for m in "AB"}
    save_file(half, tmp_path / "b.safetensors")
    wide = {
        name: torch.cat([each, each], int("lora_A" in name))
        for name, each in load_file(lora_of(pipe.unet, "unet", tmp_path / "c.safetensors")).items()
    }
    save_file(wide, tmp_path / "c.safetensors")
    before = state(pipe)
    for file in (foreign, tmp_path / "b.safetensors", tmp_path / "c.safetensors"):
        bank = eb.build(pipe, top_k=1).import_lora(file, "smile")
        with pytest.raises(MatchError, match="smile"):
            eb.steer(pipe, {"smile": 1.0}, bank=bank).attach()
        assert state(pipe) == before, file


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.a.weight": torch.ones(2)}, "no LoRA"),
        ({"a.lora_down.weight": torch.ones(2, 2), "a.dora_scale": torch.ones(2, 1)}, "a DoRA with dora_scale"),
        ({"lora_unet_a.diff_b": torch.ones(2)}, "of a kind that diffusers does not read"),
        ({"lora_unet_a.hada_w1_a": torch.ones(2, 2)}, "of a kind that diffusers does not read"),
        ({"encoder.conv_in.weight": torch.ones(2, 2), "decoder.conv_in.weight": torch.ones(2, 2)}, "a VAE alone"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_not_imported(
    tensors: dict[str, Tensor], message: str, tmp_path: Path, tiny_set: DirectionSet
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(SourceError, match=message):
        tiny_set.import_lora(tmp_path / "a.safetensors", "smile")
    assert not (tmp_path / "home" / "loras").exists()


def test_hostile_sources(tmp_path: Path, tiny_set: DirectionSet) -> None:
    (tmp_path / "text.safetensors").write_text("<!doctype html>")
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "text.safetensors", tmp_path / "missing.safetensors", tmp_path / "empty"):
        with pytest.raises(Exception, match=r"safetensors|no such file") as raised:
            tiny_set.import_lora(source, "smile")
        assert isinstance(raised.value, eb.EigenbankError)
    save_file({"unet.a.lora_A.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(SetError, match="no label"):
        tiny_set.import_lora(tmp_path / "a.safetensors", " ")
    once = tiny_set.import_lora(tmp_path / "a.safetensors", "smile")
    save_file({"unet.a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "b.safetensors")
    for source, label in (("b", "smile"), ("a", "grin")):
        with pytest.raises(SetError, match="has a lora/smile"):
            once.import_lora(tmp_path / f"{source}.safetensors", label, name="smile")
    (kept,) = (each for each in (tmp_path / "home" / "loras").iterdir() if each.stem == once.loras[0].record.sha256)
    kept.unlink()  # as for whoever pulled the set
    assert once.import_lora(tmp_path / "a.safetensors", "smile") is once
    assert kept.is_file()
    assert [each.id for each in once.import_lora(tmp_path / "a.safetensors", "smile", name="other").loras] == [
        "lora/smile",
        "lora/other",
    ]


def test_a_changed_or_missing_file_is_said(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(lora_of(pipe.unet, "unet", tmp_path / "a.safetensors"), "smile")
    (kept,) = (tmp_path / "home" / "loras").iterdir()
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.raises(SourceError, match="another file"):
        eb.steer(pipe, {"smile": 1.0}, bank=bank).attach()
    kept.unlink()
    with pytest.raises(SourceError, match="not on this machine"):
        eb.steer(pipe, {"smile": 1.0}, bank=bank).attach()


def test_a_set_that_names_a_pickle_gets_none_opened(tmp_path: Path, home: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(lora_of(pipe.unet, "unet", tmp_path / "a.safetensors"), "smile")
    torch.save(load_file(tmp_path / "a.safetensors"), tmp_path / "evil")
    data = (tmp_path / "evil").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (home / "loras" / f"{digest}.safetensors").write_bytes(data)
    record = bank.loras[0].record.model_copy(update={"sha256": digest, "size": len(data)})
    strange = bank.replaced(bank.manifest.model_copy(update={"loras": (record,)}))
    with pytest.raises(eb.EigenbankError, match="no safetensors file"):
        eb.steer(pipe, {"smile": 1.0}, bank=strange).attach()


def test_random_weights_as_large_stand_in_for_its_own(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    file = lora_of(pipe.unet, "unet", tmp_path / "a.safetensors")
    bank = eb.build(pipe, top_k=1).import_lora(file, "smile")
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"

    def change(directions: DirectionSet) -> Tensor:
        with eb.steer(pipe, {directions.loras[0]: 1.0}):
            layer = pipe.unet.get_submodule(path)
            (name,) = layer.lora_A
            return (layer.lora_B[name].weight @ layer.lora_A[name].weight).detach()

    own, one, again, two = (
        change(each) for each in (bank, bank.randomised(1, 7), bank.randomised(1, 7), bank.randomised(1, 8))
    )
    assert torch.equal(one, again)
    assert torch.allclose(own.norm(), one.norm(), rtol=1e-4)
    assert torch.allclose(own.norm(), two.norm(), rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity
    assert abs(float(cosine(own.flatten(), one.flatten(), 0))) < 0.9
    assert abs(float(cosine(two.flatten(), one.flatten(), 0))) < 0.9


def test_sweeps_and_measurements_hold_it_beside_directions(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(lora_of(pipe.unet, "unet", tmp_path / "a.safetensors"), "smile")
    (lora,), direction = bank.loras, next(iter(bank))
    drawn = eb.sweep(
        pipe, "smile", (-1.0, 0.0, 1.0), seeds=(0, 3), bank=bank, steps=2, prompt=PROMPT, size=(32, 32)
    ).pixels
    with eb.steer(pipe, {"smile": -1.0}, bank=bank):
        assert torch.allclose(drawn[1, 0], picture(pipe)[0], atol=1e-5)
    assert torch.allclose(drawn[1, 1], picture(pipe)[0], atol=1e-5)
    measurements = PipelineMeasurements(pipe, 2, prompt=PROMPT, size=(32, 32))

    def read(images: Tensor) -> Tensor:
        return images.flatten(1)[:, ::97]

    base, plus, minus = measurements.edited([direction, lora], read, scale=1.0, seeds=(0, 3))
    assert torch.allclose(plus[1], read(drawn[:, 2]), atol=1e-5)
    assert torch.allclose(minus[1], read(drawn[:, 0]), atol=1e-5)
    assert torch.allclose(base, read(drawn[:, 1]), atol=1e-5)
    alone = measurements.edited([direction], read, scale=1.0, seeds=(0, 3))[1]
    assert torch.allclose(plus[0], alone[0], atol=1e-5)


def _small(pipe: Any, path: Path, every: int = 1) -> Path:
    return lora_of(pipe.unet, "unet", path, every=every)


@pytest.mark.filterwarnings("ignore:Already")
def test_adapters_of_the_pipelines_own_that_are_disabled_or_fused_are_said(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(_small(pipe, tmp_path / "a.safetensors"), "smile")
    pipe.load_lora_weights(str(_small(pipe, tmp_path / "own.safetensors", 2)), adapter_name="own")
    pipe.disable_lora()
    before = state(pipe)
    with pytest.raises(SteerError, match="LoRAs are disabled"):
        eb.steer(pipe, {"smile": 1.0}, bank=bank).attach()
    assert state(pipe) == before
    pipe.enable_lora()
    pipe.fuse_lora()
    fused = picture(pipe)
    with pytest.raises(SteerError, match="unfuse_lora"):
        eb.steer(pipe, {"smile": 1.0}, bank=bank).attach()
    assert torch.equal(picture(pipe), fused)
    pipe.unload_lora_weights()
    with eb.steer(pipe, {"smile": 1.0}, bank=bank):
        assert not torch.allclose(picture(pipe), fused, atol=1e-3)
    assert torch.equal(picture(pipe), fused)


@pytest.mark.filterwarnings("ignore:Already found")
def test_adapters_loaded_or_switched_while_it_is_attached(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    own = str(_small(pipe, tmp_path / "own.safetensors", 2))
    bank = eb.build(pipe, top_k=1).import_lora(_small(pipe, tmp_path / "a.safetensors"), "smile")
    plain, before = picture(pipe), state(pipe)
    with (
        pytest.warns(UnmetWarning, match="'smile' was switched off or fused"),
        eb.steer(pipe, {"smile": 1.0}, bank=bank),
    ):
        pipe.unload_lora_weights()
    assert state(pipe) == before
    with (
        pytest.warns(UnmetWarning, match="'smile' was switched off or fused"),
        eb.steer(pipe, {"smile": 1.0}, bank=bank),
    ):
        pipe.load_lora_weights(own, adapter_name="own")
    assert pipe.get_active_adapters() == ["own"]
    pipe.set_adapters(["own"], [1.0])
    assert not torch.allclose(picture(pipe), plain, atol=1e-3)


def test_random_weights_of_a_dora_and_a_lokr(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    tensors = load_file(_small(pipe, tmp_path / "a.safetensors"))
    for name in [name.removesuffix(".lora_A.weight") for name in tensors if "lora_A" in name]:
        weight = pipe.unet.get_submodule(name.removeprefix("unet.")).weight.detach()
        tensors[f"{name}.lora_magnitude_vector"] = weight.norm(dim=1) * 1.1
    save_file(tensors, tmp_path / "dora.safetensors")
    bank = eb.build(pipe, top_k=1).import_lora(tmp_path / "dora.safetensors", "smile")
    with eb.steer(pipe, {bank.randomised(1, 7).loras[0]: 1.0}):
        layer: Any = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
        (magnitude,) = layer.lora_magnitude_vector.values()
        assert torch.equal(magnitude.weight, layer.weight.norm(dim=1) * 1.1)
    pictures = [picture(pipe)]
    for each in (bank, bank.randomised(1, 7), bank.randomised(1, 8)):
        with eb.steer(pipe, {each.loras[0]: 1.0}):
            pictures.append(picture(pipe))
    assert all(not torch.allclose(a, b, atol=1e-4) for n, a in enumerate(pictures) for b in pictures[:n])

    from peft import LoKrConfig, inject_adapter_in_model

    for more in ({"r": 8}, {"r": 2}, {"r": 1, "decompose_both": True, "decompose_factor": 8}):
        inner = nn.Sequential(nn.Linear(64, 64))
        inject_adapter_in_model(LoKrConfig(target_modules=["0"], init_weights=False, **more), inner, "a")  # type: ignore[arg-type]
        layer = inner[0]
        own = layer.get_delta_weight("a").detach()
        _randomise([layer], "a", 7)
        random = layer.get_delta_weight("a").detach()
        assert torch.allclose(random.norm(), own.norm(), rtol=1e-4), more
        assert abs(float(torch.nn.functional.cosine_similarity(random.flatten(), own.flatten(), 0))) < 0.9


def test_what_is_broken_or_unread_is_said_in_words(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1)
    tensors = load_file(_small(pipe, tmp_path / "a.safetensors"))
    first = next(iter(tensors))
    kohya = load_file(lora_of(pipe.unet, "unet", tmp_path / "k.safetensors", form="kohya"))
    other = {name.replace("lora_down", "hada_w1_a"): each.clone() for name, each in kohya.items()}
    before = state(pipe)
    for name, held, message in (
        ("nan", {**tensors, first: torch.full_like(tensors[first], float("nan"))}, "no numbers"),
        ("plain", {name.removeprefix("unet."): each for name, each in tensors.items()}, "names its layers in a way"),
        ("mixed", other | kohya, "correctly renamed: .*hada_w1_a"),
    ):
        save_file(held, tmp_path / f"{name}.safetensors")
        with pytest.raises(MatchError, match=message):
            eb.steer(pipe, {name: 1.0}, bank=bank.import_lora(tmp_path / f"{name}.safetensors", name)).attach()
        assert state(pipe) == before, name


def test_fusing_while_it_is_attached_is_said(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(_small(pipe, tmp_path / "a.safetensors"), "smile")
    with (
        pytest.warns(UnmetWarning, match="'smile' was switched off or fused"),
        eb.steer(pipe, {"smile": 1.0}, bank=bank),
    ):
        pipe.fuse_lora()


def test_a_label_that_is_against_it_turns_its_weight(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(_small(pipe, tmp_path / "a.safetensors"), "smile")
    (label,) = bank.loras[0].labels
    frown = label.model_copy(update={"text": "frown", "polarity": -1})
    bank = bank.labelled({"lora/smile": (label, frown)})
    drawn = []
    for key, scale in (("smile", -1.0), ("frown", 1.0), ("smile", 1.0)):
        with eb.steer(pipe, {key: scale}, bank=bank):
            drawn.append(picture(pipe))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.allclose(drawn[1], drawn[2], atol=1e-3)


def test_readings_of_random_weights_are_kept_apart_from_its_own(tmp_path: Path) -> None:
    pipe = opened("sd", tmp_path / "model")
    bank = eb.build(pipe, top_k=1).import_lora(_small(pipe, tmp_path / "a.safetensors"), "smile")
    measurements = PipelineMeasurements(pipe, 2, prompt=PROMPT, size=(32, 32))
    found = [
        measurements.edited(
            each.loras, lambda images: images.flatten(1)[:, ::97], scale=1.0, seeds=(3,), cache=tmp_path / "kept"
        )[1]
        for each in (bank, bank.randomised(1, 7), bank.randomised(1, 8))
    ]
    assert all(not torch.allclose(a, b, atol=1e-4) for n, a in enumerate(found) for b in found[:n])
