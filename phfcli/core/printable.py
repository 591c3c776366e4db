"""Text from files and models, as it may be shown."""


def printable(text: str) -> str:
    """The text with a mark in the place of each control character and half of a pair.

    So it may stand on a terminal, in a picture or on a page.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
