"""The structure of LaTeX: the last box, groups in braces, brackets and the commas between them."""

import re

_TOKEN = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace \{ is a symbol, not a group
_BARE = re.compile(r"\s*([+-]?[0-9](?:[0-9.,]*[0-9])?|[A-Za-z])(?![A-Za-z0-9])")
_JOINED = re.compile(r"[\s$,;.]*(?:and|or|\\text\{\s*(?:and|or)\s*\})?[\s$,]*")
_COMMAND = "\\boxed"
_SPACES = re.compile(r"\s*")


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed in `text`, or None.

    None means that there is no box, that the last one is empty, or that the last one is never closed; an earlier box is
    then not the final answer. `\boxed 5` and `\boxed x` (one number or one letter) count as boxes too. A mention of the
    command without content is skipped.
    """
    start = text.rfind(_COMMAND)
    while start >= 0:
        after = start + len(_COMMAND)
        if text[after : after + 1].isalpha():  # \boxedsomething is another command
            start = text.rfind(_COMMAND, 0, start)
            continue
        brace = _SPACES.match(text, after).end()  # type: ignore[union-attr]  # it matches an empty text too
        if text[brace : brace + 1] == "{":
            end = group_end(text, brace)
            return text[brace + 1 : end].strip() or None if end is not None else None
        if bare := _BARE.match(text, after):
            return bare[1]
        if brace == len(text):
            return None  # the completion is cut there
        start = text.rfind(_COMMAND, 0, start)  # the command is only mentioned
    return None


def last_boxes(text: str) -> list[str]:
    r"""The contents of the last boxes, in order, as long as only "and", "or" and commas stand between them."""
    starts = [match.start() for match in re.finditer(r"\\boxed\s*\{", text)]
    boxes: list[str] = []
    following = len(text)
    for start in reversed(starts):
        brace = text.index("{", start)
        end = group_end(text, brace)
        if end is None or (boxes and not _JOINED.fullmatch(text, end + 1, following)):
            break
        boxes.insert(0, text[brace + 1 : end].strip())
        following = start
    return boxes


def split_thinking(text: str) -> tuple[str, str]:
    """(thinking, text after it). The prompt may hold the opening tag; the token limit may cut off the closing one."""
    thinking, closed, rest = text.partition("</think>")
    if not closed and not text.lstrip().startswith("<think>"):
        return "", text
    return thinking.lstrip().removeprefix("<think>").strip(), rest.strip()


def group_end(text: str, brace: int) -> int | None:
    """Position of the brace that closes the one at `brace`, or None where there is none."""
    depth = 0
    for token in _TOKEN.finditer(text, brace):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def unwrap(text: str, commands: frozenset[str]) -> str:
    r"""Replaces \command{content} by content for each of the commands, also where they are nested."""
    pattern = re.compile(r"\\([a-zA-Z]+)\s*\{")
    position = 0
    while match := pattern.search(text, position):
        brace = match.end() - 1
        end = group_end(text, brace) if match[1] in commands else None
        if end is None:
            position = match.end()
        else:
            text = text[: match.start()] + " " + text[brace + 1 : end] + text[end + 1 :]
            position = match.start()
    return text


def split_commas(text: str) -> list[str]:
    """Splits at the commas outside all brackets; in an unbalanced text at those where the bracket depth is zero."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[a-zA-Z]+|\\.|[()\[\]{},]", text, re.DOTALL):
        token = match[0].removeprefix("\\")
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif match[0] == "," and depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def enclosure(text: str) -> str | None:
    r"""The bracket around a whole list: "{" for \{a, b\}, "(" for (a, b), [a, b] and (a, b]; None if there is none."""
    opening, closing = ("\\{", "\\}") if text.startswith("\\{") else (text[:1], text[-1:])
    if opening not in {"\\{", "(", "["} or not text.endswith(closing) or closing not in {"\\}", ")", "]"}:
        return None
    depth = 0
    for match in re.finditer(r"\\[{}]|[()\[\]]", text):
        depth += 1 if match[0] in {"\\{", "(", "["} else -1
        if depth == 0 and match.end() != len(text):
            return None
    body = text[len(opening) : -len(closing)]
    if len(split_commas(body)) < 2 or re.search(r"[:|<>]|\\mid|\\[lg]eq?", body):
        return None
    return "{" if opening == "\\{" else "("


def closing(text: str, start: int) -> int | None:
    """The index at which the round bracket at `start` closes, or None."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return None
