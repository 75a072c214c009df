"""Which adapters are refused, and how it is said."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from midalign import adapter
from midalign.errors import AdapterError, BaseModelError

sys.path.insert(0, str(Path(__file__).parent / "evaluate"))
from tiny_models import make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def good(base: Path) -> Path:
    return make_adapter(base.parent / "good", base)


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def manifest(base_digest: str) -> dict[str, object]:
    return {
        "name": "mini-aligned-seed1",
        "arm": "aligned",
        "seed": 1,
        "recipe": {"name": "mini", "digest": "0" * 64},
        "base": "mini",
        "base_digest": base_digest,
        "task": "midalign_mini_slot",
        "supervised": ["en"],
        "aligned": ["de"],
        "layer": 2,
        "pairs": "mini",
        "updates": 10,
        "tokens": 1000,
        "seconds": 1.0,
        "packages": {},
        "training": {"task": 0.5},
    }


def test_a_good_adapter_passes(good: Path, base: Path) -> None:
    adapter.check_adapter(good, str(base))
    assert adapter.read_manifest(good) is None


def test_an_adapter_of_another_base_names_both_and_their_sizes(
    good: Path, base: Path, tmp_path: Path
) -> None:
    wider = make_base(tmp_path / "wider", hidden=128)
    with pytest.raises(AdapterError) as error:
        adapter.check_adapter(good, str(wider))
    for part in (str(base), str(wider), "takes 128 numbers", " 256 ", "hidden size 128", "4 blocks"):
        assert part in str(error.value)


def test_an_adapter_that_changes_modules_the_base_lacks(copy: Path, base: Path, tmp_path: Path) -> None:
    shallow = Path(shutil.copytree(base, tmp_path / "shallow"))
    config = json.loads((shallow / "config.json").read_text())
    (shallow / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(AdapterError, match=r"model\.layers\.2\..*lacks.*2 blocks"):
        adapter.check_adapter(copy, str(shallow))


def test_pickled_weights_are_refused_unopened(copy: Path, base: Path) -> None:
    (copy / "adapter_model.safetensors").unlink()
    (copy / "adapter_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(AdapterError, match="pickled weights"):
        adapter.check_adapter(copy, str(base))


def test_folders_that_are_no_adapter(copy: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        adapter.check_adapter(tmp_path / "nowhere", str(base))
    (copy / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError, match="not JSON"):
        adapter.check_adapter(copy, str(base))
    (copy / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    with pytest.raises(AdapterError, match="PROMPT_TUNING"):
        adapter.check_adapter(copy, str(base))


def test_truncated_weights(copy: Path, base: Path) -> None:
    weights = copy / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 4, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(AdapterError, match="truncated"):
            adapter.check_adapter(copy, str(base))


def test_the_same_shapes_but_another_base(copy: Path, base: Path, tmp_path: Path) -> None:
    (copy / adapter.MANIFEST).write_text(json.dumps(manifest(adapter.base_digest(str(base)))))
    adapter.check_adapter(copy, str(base))
    twin = make_base(tmp_path / "twin", seed=9)
    with pytest.raises(AdapterError, match="same shapes but other weights"):
        adapter.check_adapter(copy, str(twin))


def test_the_same_weights_but_another_tokenizer(copy: Path, base: Path, tmp_path: Path) -> None:
    """What the adapter would be given are other tokens, in evaluation, analysis and merging into the base."""
    trained = {
        **manifest(adapter.base_digest(str(base))),
        "tokenizer_digest": adapter.tokenizer_digest(str(base)),
    }
    (copy / adapter.MANIFEST).write_text(json.dumps(trained))
    adapter.check_adapter(copy, str(base))
    changed = tmp_path / "changed"
    shutil.copytree(base, changed)
    file = changed / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": "{{ x }}"}))
    with pytest.raises(AdapterError, match="trained with another tokenizer, chat template or generation"):
        adapter.check_adapter(copy, str(changed))
    del trained["tokenizer_digest"]  # as in manifests of before
    (copy / adapter.MANIFEST).write_text(json.dumps(trained))
    adapter.check_adapter(copy, str(changed))


def test_a_malformed_manifest(copy: Path) -> None:
    (copy / adapter.MANIFEST).write_text(json.dumps(manifest("0") | {"seed": "one"}))
    with pytest.raises(AdapterError, match="seed"):
        adapter.read_manifest(copy)


def test_digests(copy: Path, base: Path) -> None:
    """As sha256sum prints them, so that anyone can recompute a digest by hand."""
    names = ["adapter_config.json", "adapter_model.safetensors"]
    lines = "".join(f"{hashlib.sha256((copy / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    assert adapter.adapter_digest(copy) == hashlib.sha256(lines.encode()).hexdigest()
    before = adapter.adapter_digest(copy)
    config = copy / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    assert adapter.adapter_digest(copy) != before
    assert len(adapter.base_digest(str(base))) == 64


def test_a_base_s_tokenizer_has_a_digest_of_its_own(base: Path, tmp_path: Path) -> None:
    """Another chat template or end of an answer is no other base, but answers are others."""
    digests = [adapter.tokenizer_digest(str(base))]
    for name, values in (
        ("tokenizer_config.json", {"chat_template": "{{ x }}"}),
        ("generation_config.json", {}),
    ):
        changed = tmp_path / name
        shutil.copytree(base, changed)
        file = changed / name
        before = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**before, **values, "eos_token_id": [7]}))
        assert adapter.base_digest(str(changed)) == adapter.base_digest(str(base))
        digests.append(adapter.tokenizer_digest(str(changed)))
    assert len(set(digests)) == 3


def test_bases_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseModelError, match="No folder"):
        adapter.base_folder(str(tmp_path / "nowhere"))
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        adapter.base_folder(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="not a local folder and could not be downloaded"):
        adapter.base_folder("nobody/nothing")
