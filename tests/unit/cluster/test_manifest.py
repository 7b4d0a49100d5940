from dataclasses import replace

import pytest

from helix_p2p.cluster.manifest import Manifest, ManifestFile, decode_manifest, make_manifest
from helix_p2p.errors import DecodeError

SHA = "ab" * 32


def manifest(*files: ManifestFile) -> Manifest:
    return make_manifest(
        name="org/model",
        architecture="LlamaForCausalLM",
        layers=4,
        vocab_size=64,
        context_tokens=128,
        files=files,
    )


def test_bytes_read_back_and_do_not_depend_on_the_order_of_files():
    a, b = ManifestFile("a.json", 1, SHA, shared=True), ManifestFile("b.bin", 2, SHA)
    first, second = manifest(a, b), manifest(b, a)
    assert first.encoded == second.encoded
    assert decode_manifest(first.encoded, manifest_hash=second.manifest_hash) == first
    assert first.shared_files() == (a,)
    assert first.file("b.bin") == b
    assert first.file("c") is None


def test_another_manifest_is_refused_by_its_hash():
    with pytest.raises(DecodeError, match="not the one"):
        decode_manifest(manifest().encoded, manifest_hash=SHA)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff" * 40, b"[" * 5000])
def test_other_bytes_are_one_typed_error(data: bytes):
    with pytest.raises(DecodeError):
        decode_manifest(data)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", ".hidden", "", "a\\b", "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(name: str):
    with pytest.raises(ValueError):
        ManifestFile(name, 1, SHA)
    data = manifest(ManifestFile("x", 1, SHA)).encoded.replace(b'"x"', f'"{name}"'.encode())
    with pytest.raises(DecodeError):
        decode_manifest(data)


def test_files_twice_are_refused():
    with pytest.raises(ValueError, match="each once"):
        manifest(ManifestFile("x", 1, SHA), ManifestFile("x", 2, SHA))


def test_the_name_is_no_part_of_the_hash_and_all_else_is():
    one = manifest(ManifestFile("a.json", 1, SHA))
    assert replace(one, name="my copy").manifest_hash == one.manifest_hash
    assert replace(one, layers=5).manifest_hash != one.manifest_hash
    assert manifest(ManifestFile("a.json", 2, SHA)).manifest_hash != one.manifest_hash
