"""Controls of an SAE: as active as it is, made alike each time, and read like any other SAE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mosaic.config.choices import CONTROLS
from mosaic.config.workspace import Workspace, open_workspace
from mosaic.errors import ConfigError
from mosaic.experiments.control_grid import (
    control_cells,
    control_texts,
    latent_agreement,
    latent_table,
    small_cells,
)
from mosaic.experiments.controls import (
    control_width,
    fired,
    make_control,
    thresholds,
    with_controls,
)
from mosaic.models.saes import load_sae
from mosaic.storage.files import sha256
from mosaic.sweep.cells import Cell
from mosaic.sweep.results import to_scores
from mosaic.sweep.run import score_cells
from mosaic.sweep.source import fit, open_source

TASK = "toxicity-en"


@pytest.fixture(scope="module")
def trained() -> tuple:
    """A JumpReLU SAE and states of which one direction is large and none has mean 0."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    draw = torch.Generator().manual_seed(0)
    states = torch.randn(3000, 16, generator=draw) * torch.linspace(5, 0.5, 16) + 3
    sae = JumpReLUSAE(JumpReLUSAEConfig(16, 40, apply_b_dec_to_input=False))
    encoder = torch.randn(16, 40, generator=draw)
    sae.load_state_dict(
        {
            "W_enc": encoder,
            "W_dec": encoder.T.contiguous(),
            "b_enc": torch.linspace(-30, 30, 40),
            "b_dec": torch.zeros(16),
            "threshold": torch.full((40,), 4.0),
        }
    )
    sae.requires_grad_(False)
    return sae, states, fired(sae, states)


def test_thresholds_by_hand() -> None:
    states = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    directions = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = thresholds(states, directions, torch.tensor([1, 2, 0, 4]))
    assert found[0] == 6, "between the largest and the second"
    assert found[1] == -3, "of -1, -2, -4 and -8 the upper two"
    assert found[2] > 8
    assert found[3] < 1


@pytest.mark.parametrize("kind", CONTROLS)
def test_a_control_is_as_active_as_its_sae(kind: str, trained: tuple) -> None:
    sae, states, counts = trained
    control = make_control(kind, sae, states, counts)
    assert (control.threshold >= 0).all(), "below 0 an activation would be none"
    assert int(fired(control, states).sum()) == int(counts.sum())
    if kind != "pca":
        assert torch.equal(fired(control, states), counts), "latent by latent"
        assert int(counts.max()) > len(states) / 2, "one of them fires on most"


def test_random_directions_have_unit_length_and_rotated_ones_the_saes(trained: tuple) -> None:
    sae, states, counts = trained
    random = make_control("random", sae, states, counts)
    torch.testing.assert_close(random.W_enc.norm(dim=0), torch.ones(40))
    rotated = make_control("rotated", sae, states, counts)
    assert not torch.allclose(rotated.W_enc, sae.W_enc, atol=0.1)
    torch.testing.assert_close(rotated.W_enc.T @ rotated.W_enc, sae.W_enc.T @ sae.W_enc)


def test_signed_pca_has_both_parts_of_each_component(trained: tuple) -> None:
    sae, states, counts = trained
    control = make_control("pca", sae, states, counts)
    assert control.W_enc.shape == (16, 32)
    torch.testing.assert_close(control.W_enc[:, 16:], -control.W_enc[:, :16])
    covariance = np.cov(states.numpy().T)
    first = control.W_enc[:, 0].numpy()
    np.testing.assert_allclose(covariance @ first, np.linalg.eigvalsh(covariance)[-1] * first, 1e-3)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = str(tmp_path_factory.mktemp("build"))
    given = {"max_docs": 300, "n_train": 150, "n_test": 60, "seeds": [0]}
    return open_workspace("mini", folder, **given)


@pytest.fixture(scope="module")
def controlled(workspace: Workspace) -> Workspace:
    model = workspace.profile.text_models[0]
    texts = control_texts(workspace, model, [TASK])
    return with_controls(workspace, model, 3, "256", texts)


def test_controls_are_made_once_and_alike(controlled: Workspace, tmp_path: Path) -> None:
    model = controlled.profile.text_models[0]
    bare = replace(model, saes=tuple(s for s in model.saes if s.width not in NAMES))
    profile = replace(controlled.profile, models=(bare,))
    texts = control_texts(controlled, model, [TASK])

    def digests(root: Path) -> list[str]:
        workspace = Workspace(profile, root, "mini")
        made = with_controls(workspace, bare, 3, "256", texts).profile.models[0].saes[-3:]
        assert [sae.width for sae in made] == NAMES
        return [sha256(Path(str(sae.folder)) / "sae_weights.safetensors") for sae in made]

    first = digests(controlled.root)
    assert digests(tmp_path) == first, "the same from the seed in another folder"
    path = Path(str(model.saes[-1].folder)) / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    assert digests(controlled.root) == first, "a damaged control is made anew"
    with pytest.raises(ConfigError, match="there is none"):
        with_controls(controlled, bare, 3, "256", [""])


NAMES = [control_width("256", kind) for kind in CONTROLS]


def test_controls_are_scored_like_saes_under_a_feature_of_their_own(controlled: Workspace) -> None:
    model = controlled.profile.text_models[0]
    cells = control_cells(TASK, model, 3, "256")
    assert len(cells) == len(set(cells)) == 4 + 2 * 4 + 1
    few = [c for c in cells if c.pooling in ("sum", "mean+max")]
    table = to_scores(score_cells(few, controlled, n_jobs=1))
    assert list(table["feature"]) == ["hidden", "sae", *["control"] * 3]
    assert list(table["width"].dropna()) == ["256", *NAMES]
    d_model = load_sae(model.sae(3, "256"), torch.device("cpu"), 96).cfg.d_in
    assert table["n_features"].iloc[0] == 2 * d_model, "mean and max side by side"
    assert (table["macro_f1"] > 0.6).all()
    assert table[["auroc", "brier", "ece"]].notna().all(axis=None)
    facts = latent_table(controlled, [TASK], model, 3, "256").set_index("latents")
    own = facts.loc["trained SAE"]
    np.testing.assert_allclose(facts["l0"].astype(float), own["l0"], rtol=0.25)
    assert own["explained_variance"] > 0.6
    assert pd.isna(facts["explained_variance"]).sum() == 3
    assert facts["above_1"].between(0.9, 1).all()


def test_explained_variance_is_that_of_the_tokens_of_the_texts(controlled: Workspace) -> None:
    """Computed by hand on the states of the first texts; blank ones are no texts."""
    from mosaic.experiments import control_grid
    from mosaic.models.language_model import load_model
    from mosaic.models.readers import text_reader
    from mosaic.models.resolve import resolve
    from mosaic.models.train_saes import residual_vectors

    model, profile = controlled.profile.text_models[0], controlled.profile
    texts = ["The cook was kind.", " ", "The waiter was rude today."]
    sae = model.sae(3, "256")
    [found] = control_grid.explained_variances(profile, model, [sae], [texts])
    ready = resolve(model, profile)
    reader = text_reader(ready, profile)
    x = residual_vectors(load_model(ready, 4), reader, texts[::2], [3], 10_000)[3].double()
    whole = load_sae(sae, torch.device("cpu"), x.shape[1], ready, decoder=True).double()
    latents = torch.relu((x - whole.b_dec * whole.cfg.apply_b_dec_to_input) @ whole.W_enc
                         + whole.b_enc)  # fmt: skip
    latents = latents * (latents > getattr(whole, "threshold", 0))
    error = (latents @ whole.W_dec + whole.b_dec - x).pow(2).sum()
    assert found[sae] == pytest.approx(float(1 - error / (x - x.mean(0)).pow(2).sum()), abs=1e-4)


def test_the_same_latents_are_kept_with_another_split(controlled: Workspace) -> None:
    """Beside a count by hand: sparse probes of two splits, and what both read."""
    model = controlled.profile.text_models[0]
    table = latent_agreement(controlled, [TASK], model, 3, "256", 5, [0, 1])
    assert list(table["latents"]) == ["trained SAE", "random dictionary"]
    latents = [Cell(TASK, "sae", model.name, 3, "256", "sum", k=5, seed=seed) for seed in (0, 1)]
    read = []
    for cell in latents:
        source = open_source(controlled, cell)
        split, folds = source.split(cell.seed), source.profile.folds
        probe = fit(cell, source.candidates(cell), source.data.labels, split, folds)
        read.append(set(probe.columns))
    own = table.iloc[0]
    assert own["shared"] == len(read[0] & read[1])
    assert own["by_chance"] == pytest.approx(25 / own["n_active"], rel=0.01)
    alike = latent_agreement(controlled, [TASK], model, 3, "256", 5, [0, 0])
    assert (alike["shared"] == 5).all()


def test_small_training_parts_keep_two_texts_of_each_class(controlled: Workspace) -> None:
    model = controlled.profile.text_models[0]
    mean = [c for c in control_cells(TASK, model, 3, "256") if c.pooling == "mean"]
    found = small_cells(controlled, mean, [2, 16, 64, 150, 1000])
    assert [round(c.train_fraction * 150) for c in found] == [16, 64]
    rows = [result.row["n_train"] for result in score_cells(found, controlled, n_jobs=1)]
    assert rows == [16, 64]
