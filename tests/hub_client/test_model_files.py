import pytest

from hub_models.hub_client.model_files import read_json


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b"\xff\xfe{}", b"[" * 99_999, b"1" * 5_000])
def test_damaged_json_is_named(data: bytes, tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} is damaged.*: delete it") as caught:
        read_json(path, way="delete it")
    assert "\n" not in str(caught.value)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
