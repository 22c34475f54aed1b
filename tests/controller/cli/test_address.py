import pytest

from controller.cli import address
from protos.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.5", ("10.0.0.5", 7402)),
        ("10.0.0.5:80", ("10.0.0.5", 80)),
        ("box.local:80", ("box.local", 80)),
        ("[fe80::1]:80", ("fe80::1", 80)),
        ("[fe80::1]", ("fe80::1", 7402)),
        ("fe80::1", ("fe80::1", 7402)),
    ],
)
def test_addresses_are_read(text: str, expected: tuple[str, int]) -> None:
    assert address.split(text, 7402) == expected


@pytest.mark.parametrize("text", ["10.0.0.5:", "10.0.0.5:http", "a:65536", ":80", "[]:80"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not an address"):
        address.split(text, 7402)


def test_the_advertised_address() -> None:
    assert address.advertised("10.0.0.5", 7402) == "10.0.0.5:7402"
    assert address.advertised("10.0.0.5:80", 7402) == "10.0.0.5:80"
    assert address.advertised("fe80::1", 7402) == "[fe80::1]:7402"
    host, port = address.split(address.advertised("", 7402), 0)
    assert port == 7402
    assert host not in ("0.0.0.0", "::", "")
