"""Makes text from files and models safe to show."""


def printable(text: str) -> str:
    """The text with a replacement mark for each control character and each lone surrogate.

    So it may stand on a terminal, in a picture or on a page.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
