"""Fill .venv with requirements.lock and this project: `.venv/bin/python tools/install.py`.

uv installs in well under half of pip's time, and is asked to look where pip is told to look. Where
uv cannot be had or fails, pip installs the same; what went wrong is on the terminal by then.
"""

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SIZE = "about 0.6 GB, and 3 GB more where torch comes with CUDA"

PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

UV = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable]

UV_NAMES = {  # pip's option to uv's variable and what stands between several values there
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
}


def uv_settings(listed: str) -> dict[str, str]:
    """Variables that make uv look where pip looks, from the lines of `pip config list`.

    pip's variables win over its `[install]`, and that over its `[global]`, as they do in pip.
    """
    lines = [line.partition("=") for line in listed.splitlines()]
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # pip takes the best of all indexes, too
    for section in ("global.", "install.", ":env:."):
        for key, _, value in lines:
            name = key.removeprefix(section)
            if name != key and name.removeprefix("default-") in UV_NAMES:
                variable, between = UV_NAMES[name.removeprefix("default-")]
                found[variable] = between.join(str(ast.literal_eval(value)).split())
    return found


def torch_builds(settings: dict[str, str]) -> list[list[str]]:
    """Options to try in turn: uv picks torch for this machine's GPU, or for none, by itself.

    An index of the user's own is asked for what it has.
    """
    own = {"UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"} & settings.keys()
    return [[]] if own else [["--torch-backend", "auto"], []]


def main() -> None:
    """Install torch first and alone, then the lock, then this project; exits with pip's code."""
    start = time.perf_counter()
    print(f"Installing requirements.lock into {sys.prefix}, which downloads {SIZE}.", flush=True)
    torch = next(x for x in (ROOT / "requirements.lock").read_text().split() if x[:7] == "torch==")
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout
    settings = uv_settings(listed)
    environment = {**settings, **os.environ}
    said = [] if sys.stderr.isatty() else ["--quiet"]
    said += ["--no-index"] if re.search("no-index='(1|true|yes|on)'", listed, re.I) else []
    has_uv = subprocess.run([*PIP, "uv"]).returncode == 0
    steps = [[torch], ["-r", "requirements.lock"], ["--no-deps", "--no-build-isolation", "-e", "."]]
    for step in steps:
        for build in torch_builds({**settings, **environment}) if step == [torch] else [[]]:
            uv = [*UV, *said, *build, *step]
            if has_uv and subprocess.run(uv, cwd=ROOT, env=environment).returncode == 0:
                break
        else:
            print(f"pip installs {' '.join(step)}; uv could not.", flush=True)
            if code := subprocess.run([*PIP, *step], cwd=ROOT).returncode:
                sys.exit(code)
    print(f"Installed in {time.perf_counter() - start:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
