"""Colab: install what its image lacks, take the token from its secrets, say which profile fits.

Imported from the clone before anything is installed, so its top level needs the standard library
only. The bootstrap cell of every notebook calls `prepare`, in Colab and nowhere else.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path

from mosaic.config.choices import GEMMA_PROFILES
from mosaic.errors import AccessError

KEPT = ("torch", "torchvision", "torchaudio", "numpy", "pandas")
"""Never changed: compiled against one another, and perhaps imported before this ran."""

HEADROOM = 0.9
"""Share of a GPU's memory that a profile may be estimated to take."""


@dataclass(frozen=True)
class Gpu:
    """What decides which profile fits; `bfloat16` only where the GPU computes it natively."""

    name: str
    memory: int
    """Bytes."""
    bfloat16: bool


@dataclass(frozen=True)
class Choice:
    """A profile, and one sentence that says why it and no other."""

    profile: str
    why: str


def prepare(clone: Path | str = ".") -> Choice:
    """Install, set HF_TOKEN, choose a profile and print it. Raises AccessError."""
    install(Path(clone))
    token = hub_token()
    choice = choose_profile(find_gpu(), token is not None)
    print(choice.why)
    if choice.profile != "mini":
        print(
            f'To use it, write profile = "{choice.profile}" in the next cell. The profile "mini", '
            f"which stands there, takes minutes and needs no token."
        )
    return choice


def constraints(installed: Iterable[tuple[str, str]]) -> str:
    """Lines of a pip constraints file that hold the packages of KEPT at the version installed."""
    return "".join(f"{name}=={version}\n" for name, version in installed if name.lower() in KEPT)


def install(clone: Path) -> None:
    """Install the package and what it lacks, at the versions of KEPT. Raises AccessError."""
    installed = [(d.metadata["Name"], d.version) for d in distributions()]
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "constraints.txt"
        held.write_text(constraints(installed), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
        command += ["--disable-pip-version-check", "--no-color"]
        command += ["--constraint", str(held), str(clone)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        said = lines or result.stderr.split("\n")[:1]
        raise AccessError(
            f"pip could not install what is missing without changing {', '.join(KEPT)} "
            f"(it says: {said[0]}). Restart the runtime and run the first cell again."
        )
    importlib.invalidate_caches()  # the running kernel sees what was just installed


def hub_token() -> str | None:
    """The secret HF_TOKEN of Colab, also set in the environment; None where there is none.

    A token typed into a cell would be saved with the notebook, so no cell ever holds one.
    """
    if not os.environ.get("HF_TOKEN"):
        from google.colab import userdata

        try:
            token = userdata.get("HF_TOKEN")
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
            return None
        if not token:
            return None
        os.environ["HF_TOKEN"] = token
    return os.environ["HF_TOKEN"]


def find_gpu() -> Gpu | None:
    """The first CUDA device, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Gpu(found.name, found.total_memory, native)


@lru_cache
def memory_of(profile: str, dtype: str, kind: str) -> list[int]:
    """Bytes that each text model of a shipped profile takes on a kind of device (estimate)."""
    import torch

    from mosaic.config.profiles import load_profile
    from mosaic.extraction.cost import shape_of
    from mosaic.extraction.memory import memory_bytes

    loaded, numbers = load_profile(profile), getattr(torch, dtype)
    return [
        memory_bytes(model, shape_of(model), model.saes, loaded, numbers, kind)
        for model in loaded.text_models
    ]


def choose_profile(gpu: Gpu | None, token: bool) -> Choice:
    """The profile that needs most and still fits on the GPU, with the reason.

    Gemma 2 is gated: without a token the choice is "mini", which is no evidence for the paper. A
    profile that does not fit is refused by extraction before anything is downloaded
    (extraction.memory.require_memory).
    """
    if gpu is None:
        why = (
            f'this machine has no GPU; Gemma 3 270M, the smallest model of "gemma", takes about '
            f"{memory_of('gemma', 'float32', 'cpu')[0] / 1e9:.0f} GB and runs on a CPU"
        )
        if token:
            return Choice("gemma", f'Profile "gemma": {why} (its 1B models take hours there).')
        return Choice(
            "mini",
            f'Profile "mini": {why}, but Gemma 3 is gated: accept its licence at '
            f"https://huggingface.co/google/gemma-3-270m, add your token to Colab's secrets as "
            f"HF_TOKEN, and run this cell again.",
        )
    has = f"{gpu.name} has {gpu.memory / 1e9:.0f} GB"
    dtype = "bfloat16" if gpu.bfloat16 else "float16"
    needs = {profile: max(memory_of(profile, dtype, "cuda")) for profile in GEMMA_PROFILES}
    fitting = [p for p, need in needs.items() if need <= HEADROOM * gpu.memory]
    if not fitting:
        return Choice("mini", f'Profile "mini": {has}, too little for Gemma 2 2B with 16k SAEs.')
    best = fitting[0]
    precision = "bfloat16" if gpu.bfloat16 else "float16 with its residual stream in float32"
    need = f"it takes about {needs[best] / 1e9:.0f} GB in {precision}"
    if not token:
        return Choice(
            "mini",
            f'Profile "mini": {has}, enough for "{best}" ({need}), but Gemma 2 is gated: accept '
            f"its licence at https://huggingface.co/google/gemma-2-2b, add your token to Colab's "
            f"secrets as HF_TOKEN, and run this cell again.",
        )
    too_big = [f'"{p}" would take {n / 1e9:.0f} GB' for p, n in needs.items() if p not in fitting]
    rest = f" ({' and '.join(too_big)})" if too_big else ""
    return Choice(best, f'Profile "{best}": {has}, and {need}{rest}.')
