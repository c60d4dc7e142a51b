"""Where a run reads and writes: one folder, laid out the same for notebooks and command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mosaic.config.profiles import Profile, load_profile
from mosaic.storage.shards import Store


@dataclass(frozen=True)
class Workspace:
    """A profile and the build folder its results go to (ours).

    `cache` holds what costs time and is keyed by content (features, scored cells); `run` holds what
    a reader looks at (executed notebooks, figures, score tables) and is made anew by every run.
    """

    profile: Profile
    root: Path
    loaded_from: str
    """What the profile was loaded from: a shipped name or a YAML file."""
    engine: str = "local"
    """Where extractions and sweeps run; one of `mosaic.config.choices.ENGINES`."""

    @property
    def cache(self) -> Path:
        """Folder of features and scored cells; absolute, as workers may start elsewhere."""
        return self.root.absolute() / "cache"

    @property
    def store(self) -> Store:
        """Pooled features, by what decides their numbers."""
        return Store(self.cache / "features")

    @property
    def run(self) -> Path:
        """Folder of this profile's notebooks, figures and scores."""
        return self.root / "runs" / self.profile.name

    @property
    def figures(self) -> Path:
        """Folder of the figure files of this profile's run."""
        return self.run / "figures"

    def scores_path(self, chapter: str) -> Path:
        """The score table a chapter leaves behind."""
        return self.run / "scores" / f"{chapter}.csv"


def place_trained(profile: Profile, folder: Path) -> Profile:
    """The profile with a place below `folder` for each SAE that a run trains."""
    models = []
    for model in profile.models:
        home = folder / profile.name / model.name
        placed = (replace(s, folder=str(home / s.name)) if s.train else s for s in model.saes)
        models.append(replace(model, saes=tuple(placed)))
    return replace(profile, models=tuple(models))


def open_workspace(
    profile: str, build_dir: str = "_build", engine: str = "local", **overrides: Any
) -> Workspace:
    """The workspace of a profile (a shipped name or a YAML file) in `build_dir`.

    `overrides` replace fields of the profile, such as `n_train=100`. Raises ConfigError.
    """
    root = Path(build_dir)
    loaded = place_trained(load_profile(profile, **overrides), (root / "cache" / "saes").resolve())
    return Workspace(loaded, root, profile, engine)
