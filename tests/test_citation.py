"The file that says how to cite this: valid, and of the version that is here."

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def line_of(name: str, start: str) -> str:
    "The value in the first line of a file that begins so."
    [value, *_] = [line for line in (ROOT / name).read_text().splitlines() if line.startswith(start)]
    return value.partition("=")[2].strip().strip('"')


def test_what_the_format_asks_for_is_there():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software" and CITATION["title"] == "empathy_probes"
    assert CITATION["message"] and all("name" in author for author in CITATION["authors"])


def test_version_and_address_are_those_of_the_package():
    assert CITATION["version"] == line_of("pyproject.toml", "version") == line_of("settings.ini", "version")
    owner, name = line_of("settings.ini", "user"), line_of("settings.ini", "repo")
    assert CITATION["repository-code"] == f"https://github.com/{owner}/{name}"
    assert f"## {CITATION['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_paper_is_named_and_found_where_the_readme_says():
    [paper] = CITATION["references"]
    assert paper["title"].startswith("Detecting and Steering Empathy in Action")
    assert [author["family-names"] for author in paper["authors"]] == ["Cadile"]
    assert f"]({paper['url']})" in (ROOT / "README.md").read_text()
