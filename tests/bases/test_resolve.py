"""Names of bases."""

from pathlib import Path

import pytest

from midalign.bases import resolve
from midalign.errors import BaseModelError


def test_bundled_name_gives_a_folder_that_transformers_loads():
    folder = Path(resolve("mini"))
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        f.name for f in folder.iterdir()
    }


def test_folders_and_hub_ids_stay_as_they_are(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path)) == str(tmp_path)
    for name in ("google/gemma-3-270m", "gpt2"):
        assert resolve(name) == name


@pytest.mark.parametrize("name", ["mimi", "Mini", "minni"])
def test_misspelt_name_offers_the_bundled_one(name):
    with pytest.raises(BaseModelError, match="Did you mean mini"):
        resolve(name)


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c", "../mini", "", "two words"])
def test_path_that_does_not_exist_is_no_hub_id(name):
    with pytest.raises(BaseModelError, match="neither a bundled one"):
        resolve(name)


def test_folder_without_a_model(tmp_path):
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        resolve(str(tmp_path))
