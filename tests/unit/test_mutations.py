"""What `./scripts/mutate` takes out must be there to be taken out."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTATIONS = tomllib.loads((ROOT / "scripts/mutations.toml").read_text("utf-8"))["mutation"]


def test_each_mutation_names_text_that_stands_once_in_its_file_and_tests_that_exist() -> None:
    for mutation in MUTATIONS:
        text = (ROOT / mutation["file"]).read_text("utf-8")
        assert text.count(mutation["find"]) == 1, (
            f"{mutation['name']}: adapt scripts/mutations.toml"
        )
        assert mutation["find"] != mutation["put"]
        for test in mutation["tests"]:
            file, _, name = test.partition("::")
            assert name in (ROOT / file).read_text("utf-8"), f"{mutation['name']}: {test} is gone"


def test_each_name_is_its_own() -> None:
    names = [mutation["name"] for mutation in MUTATIONS]
    assert len(set(names)) == len(names) >= 50
