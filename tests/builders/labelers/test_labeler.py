"""Labelers are opened by name, and what a bad one does is told, not believed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from eigenbank.builders.label.labeler import LabelerEnsemble, LabelerError, check_labeler, open_labelers
from eigenbank.registry.plugins import load_plugins
from eigenbank.schemas.errors import EigenbankError


class Colours:
    """A well-behaved labeler, but for what a test changes."""

    source = "colours"
    names: tuple[str, ...] = ("red", "green", "blue")
    stds: Tensor | None = None

    def read(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_what_is_used_by_default_depends_on_the_checkpoint(faces_checkpoint: Path, tmp_path: Path) -> None:
    (own,) = open_labelers([], faces_checkpoint)
    assert own.source.startswith("attribute-model:")
    (other,) = open_labelers([], tmp_path)
    assert other.source == "statistics"


def test_every_labeler_that_ships_is_loaded() -> None:
    assert {(plugin.name, plugin.problem) for plugin in load_plugins("labelers")} == {
        ("attributes", None),
        ("clip", None),
        ("statistics", None),
    }


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["statistic"], r"did you mean 'statistics'\? .* No label was given"),
        (["statistics", "statistics"], "asked for twice; no label was given"),
        (["attributes:/no/such"], "is no attribute model"),
        (["clip:a/b#nosuch"], "no vocabulary 'nosuch'"),
        (["clip:a/b#/no/such.json"], "cannot be read"),
    ],
)
def test_a_wrong_name_is_refused(specs: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(EigenbankError, match=message):
        open_labelers(specs, tmp_path)


def test_an_ensemble_reads_all_side_by_side() -> None:
    other = Colours()
    other.source, other.names = "others", ("brightness",)
    other.read = lambda images: images.mean(dim=(1, 2, 3))[:, None]  # type: ignore[method-assign]
    ensemble = LabelerEnsemble([Colours(), other])
    scores = ensemble.read(IMAGES)
    torch.testing.assert_close(scores[:, ensemble.columns["others"]], IMAGES.mean(dim=(1, 2, 3))[:, None])
    torch.testing.assert_close(scores[:, ensemble.columns["colours"]], IMAGES.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: x.mean(dim=(2, 3)) * torch.nan, "not finite"),
        (lambda x: x.mean(dim=(2, 3))[1:], r"shape \[4, 3\]: expected \[5, 3\]"),
        (lambda x: x.mean(), r"shape \[\]"),
        (lambda x: None, "a NoneType"),
    ],
)
def test_a_labeler_that_misbehaves_is_named(read: object, message: str) -> None:
    bad = Colours()
    bad.read = read  # type: ignore[assignment, method-assign]
    with pytest.raises(LabelerError, match=message) as caught:
        LabelerEnsemble([bad]).read(IMAGES)
    assert caught.value.source == "colours"


@pytest.mark.parametrize(
    ("names", "stds", "message"),
    [
        ((), None, "0 names"),
        (("red", "red", "blue"), None, "2 of them different"),
        (("red", "green", "blue"), torch.ones(2), r"shape \[2\] for 3 names"),
        (("red", "green", "blue"), torch.tensor([1.0, 0.0, 1.0]), "one above 0"),
        (("red", "green", "blue"), torch.tensor([1.0, torch.nan, 1.0]), "one above 0"),
    ],
)
def test_names_and_deviations_must_fit(names: tuple[str, ...], stds: Tensor | None, message: str) -> None:
    bad = Colours()
    bad.names, bad.stds = names, stds
    with pytest.raises(LabelerError, match=message):
        check_labeler(bad, "colours")
