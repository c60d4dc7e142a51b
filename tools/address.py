"""Write the repository's address on GitHub everywhere: `python tools/address.py OWNER/NAME`.

It stands in `_config.yml`, from which the book takes it; this copies it to what is read without the
book: the notebooks' badge and first cell, and `CITATION.cff`. `""` takes it out again.
"""

import re
import sys
from pathlib import Path

from mosaic.errors import ConfigError
from mosaic.publish.pages import colab_badge

UNSET = 'os.environ["MOSAIC_SOURCE"]  # where to clone from: no address is set yet'


def set_address(root: Path, slug: str) -> None:
    """Rewrite the files below `root`; raises ConfigError for what is not `owner/name` or empty."""
    if slug and not re.fullmatch(r"[A-Za-z0-9-]+/[\w.-]+", slug, re.ASCII):
        raise ConfigError(f"Expected OWNER/NAME as on GitHub, or '' for none, found {slug!r}.")
    url = f"https://github.com/{slug}" if slug else ""
    _rewrite(root / "_config.yml", (r"(?m)^  url: .*$", f"  url: {url}" if url else '  url: ""'))
    code = f"repository-code: {url}\n" if url else ""
    _rewrite(root / "CITATION.cff", (r"(?:repository-code: .*\n)?(?=authors:)", code))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        source = f'os.environ.get("MOSAIC_SOURCE", "{url}")' if url else UNSET
        line = f"    source = {source}".replace('"', r"\"")
        badge = f'    "{colab_badge(path.stem, slug)}\\n",\n    "\\n",\n' if slug else ""
        _rewrite(
            path,
            (
                r'(    "# [^\n]*\n    "\\n",\n)(?:    "\[!\[Open in Colab.*\n    "\\n",\n)?',
                r"\1" + badge.replace("\\", "\\\\"),
            ),
            (r"    source = os\.environ.*(?=\\n\",\n)", line.replace("\\", "\\\\")),
        )


def _rewrite(path: Path, *changes: tuple[str, str]) -> None:
    """Replace the first place of each pattern. Raises ConfigError where there is none."""
    text = path.read_text(encoding="utf-8")
    for pattern, new in changes:
        text, found = re.subn(pattern, new, text, count=1)
        if not found:
            raise ConfigError(f"{path}: nothing looks like {pattern!r}, so no address was written.")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python tools/address.py OWNER/NAME (or "" to take the address out)')
    try:
        set_address(Path(__file__).resolve().parents[1], sys.argv[1])
    except ConfigError as error:
        sys.exit(f"address: {error}")
