"""What proxies are tested with: certificates of an authority of their own."""

import pytest

from pipeline.security.certificate_authority import Authority


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls") / "its own")  # with a space, as users have
    made.create(["localhost", "127.0.0.1"], days=10, authority_days=10)
    return made
