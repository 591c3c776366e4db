"""`from phfcli.losses import ...` offers what it names."""

import phfcli.losses


def test_every_public_name_exists_and_says_what_it_is() -> None:
    assert phfcli.losses.__all__ == sorted(phfcli.losses.__all__)
    for name in phfcli.losses.__all__:
        assert getattr(phfcli.losses, name).__doc__
