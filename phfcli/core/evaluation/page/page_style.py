"""What the two pages share: their style, and the policy that allows a page nothing but its own style and script."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path


def page_policy(page: str) -> str:
    """Allows the page's own style and script, by their hashes, and nothing else; no string becomes markup."""
    allowed = {}
    for name in ("style", "script"):
        content = page.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
        allowed[name] = b64encode(sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{allowed['style']}'; script-src 'sha256-{allowed['script']}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def common_style() -> str:
    """The colours, type and controls of both pages, as CSS."""
    return (Path(__file__).parent / "common.css").read_text(encoding="utf-8")
