"""The methods of this repository, whatever else is installed."""

from pathlib import Path

SHIPPED = sorted(
    folder.name.removeprefix("kdcore-")
    for folder in (Path(__file__).parents[1] / "plugins").iterdir()
    if (folder / "pyproject.toml").exists()
)
