"""Answers that are written to hang a grader, to crash it, to fill its memory or to be executed."""

import itertools
import random
import re
from collections.abc import Callable
from functools import partial

Family = Callable[[random.Random], str]

Pair = tuple[str, str]

GOLDS = ("204", r"\frac{3}{7}", r"[0,\infty)", r"\{1,2\}", "x^2+1")

# One answer a line. <s>, <m> and <l> are numbers of two, five and at least seven digits, <call> is a payload.
SPELLINGS = {
    "towers": r"""
        <s>^{<s>^<s>}
        <s>^<s>^<s>
        <s>^{<s>^{<s>^{<s>}}}
        (<s>^{<s>})^{<s>^{<s>}}
        <s>^{<l>}
        <s>^{-<s>^{<s>}}
        2^{2^{2^{2^{2^<s>}}}}
        <s>e<l>""",
    "hidden towers": r"""
        <s>^{<m> \cdot <m>}
        (<s>^{<m>})^{<m>}
        <s>^{\frac{10^{9}}{<s>}}
        <s>^{<m>}
        <s>^{<s>!}
        2^{\binom{<m>}{50}}
        \exp(\exp(\exp(<s>)))
        e^{e^{e^{<s>}}}
        <s>^{<m>+<m>+x^{<m>}}
        \sqrt[<m>]{<s>}^{<m>}
        (<s>+\sqrt{2})^{<m>}
        <s>**<s>**<s>
        <s>^{\text{<l>}}
        (<s>^<s>)^{(<s>^<s>)^{<s>}}
        \left(<s>^{<m>}\right)^{<m>}""",
    "factorials": r"""
        (10^<s>)!
        (10^{<s>})!
        <l>!
        (<l>)!
        \left(<l>\right)!
        ((<s>!)!)!
        <s>!!!!
        (<l>+1)!
        (<l>\cdot 2)!
        \frac{<l>!}{<l>!}
        \Gamma(<l>)
        (<m>-1)!+<m>!
        \text{<l>}!
        \text{factorial}(<l>)
        4999!^{<s>}""",
    "combinatorics": r"""
        \binom{<l>}{<m>}
        \binom{10^9}{<m>}
        \binom{<l>}{<l>}
        \gcd(10^{<s>},<l>)
        <l>^{999} \bmod 7
        \operatorname{lcm}(10^{99},<l>)
        \lfloor <l>^{999}\pi \rfloor
        \zeta(<l>)
        F_{<l>}""",
    "series": r"""
        \sum_{n=1}^{<l>} n^n
        \sum_{n=1}^{<l>} n!
        \sum_{n=1}^{\infty} \frac{\sin n}{n^{<s>}}
        \sum_{n=1}^{<l>}\sum_{m=1}^{<l>} \frac{1}{n+m}
        \prod_{n=1}^{<l>} n
        \prod_{n=1}^{\infty} (1+\frac{1}{n^{<s>}})
        \lim_{n\to\infty} (1+\frac{1}{n})^{<s>n}
        \lim_{x\to 0} \sin(\frac{<s>}{x})
        \int_0^{<s>} x^x dx
        \int_0^{<l>} \sin(e^x) dx
        \int \frac{1}{x^{<s>}+1} dx
        \frac{d}{dx} x^{x^{x^{<s>}}}""",
    "polynomials": r"""
        (x+1)^{<m>}
        (x+y+z)^{<s>}
        x^{<m>}-1
        (x^{<m>}-1)(x^{<m>}+1)
        \frac{x^{<m>}-1}{x-1}
        \sin(<m>x)
        \cos^{<m>}(x)
        |x|^{<s>}+|y|""",
    "near values": r"""
        204+10^{-<s>}
        \frac{3}{7}+\frac{1}{<s>!}
        [10^{-<s>},\infty)
        \{1+2^{-<s>},2\}
        x^2+1+10^{-<s>}
        \sin(10^{<s>})
        204\cos(10^{-<s>})
        204.0000000000000000000000<s>
        203.9999999999999999999999<s>
        e^{\pi\sqrt{163}}-<s>^{9}
        \tan(\frac{\pi}{2}+10^{-<s>})""",
    "no values": r"""
        \frac{<s>}{0}
        0^0
        \infty-<s>\infty
        \log 0
        \tan\frac{\pi}{2}
        (-<s>)!
        i^{i^i}
        nan
        inf
        None
        True
        \int
        \sum
        \lim
        \frac{d}{dx}
        <s>:<s>:<s>
        <s> \pmod 0
        <s>_0
        \emptyset \cup
        \forall x
        \text{
        \%
        ,;:
        \log_1 <s>
        \begin{pmatrix}""",
    "python": r"""
        <call>
        eval("<call>")
        1+<call>
        \text{<call>}
        \mathrm{<call>}(3)
        \operatorname{<call>}(x)
        \frac{<call>}{2}
        S("<call>")
        sympify("<call>")
        parse_expr("<call>")
        np.<call>
        lambda: <call>
        <call>=5
        5=<call>
        f(<call>,<call>)
        \int <call> dx
        x_{<call>}
        \begin{pmatrix}<call>\end{pmatrix}
        Integer(5)+<call>
        \{<call>,1\}""",
    "shell and LaTeX": r"""
        `touch canary`<s>
        $(touch canary)<s>
        ; touch canary; <s>
        | touch canary | <s>
        \write18{touch canary}<s>
        \immediate\write18{touch canary}
        \input{|touch canary}
        \openout5=canary
        \directlua{os.execute('touch canary')}
        \def\x{\x\x}\x
        \newcommand{\x}{\x<s>}\x
        \catcode`\@=11
        <script>touch canary</script>
        \href{file:canary}{<s>}""",
}

CALLS = (
    "__import__('os').system('touch canary')",
    "open('canary','w')",
    'exec(chr(111)+\'pen("canary","w")\')',
    "().__class__.__base__.__subclasses__()[<s>]('canary','w')",
    "__import__('pathlib').Path('canary').touch()",
    "(lambda: open('canary', 'w'))()",
)

RANGES = {"s": (7, 99), "m": (10_000, 99_999), "l": (10**6, 10**12)}


def _fill(spelling: str, rng: random.Random) -> str:
    payload = spelling.replace("<call>", rng.choice(CALLS))
    return re.sub("<([sml])>", lambda match: str(rng.randint(*RANGES[match[1]])), payload)


def _spelled(block: str, rng: random.Random) -> str:
    return boxed(_fill(rng.choice(block.split("\n")[1:]).strip(), rng))


def boxed(content: str) -> str:
    return rf"<think>a try</think> The answer is \boxed{{{content}}}."


def nested(rng: random.Random) -> str:
    """Brackets, radicals and fractions: few levels, too many, and by the thousand."""
    opening, closing = rng.choice(
        [
            ("{", "}"), ("(", ")"), ("[", "]"), (r"\{", r"\}"), (r"\left(", r"\right)"), (r"\text{", "}"), ("x^{", "}"),
            (r"\sqrt{", "}"), (r"\sqrt{<s>+", "}"), (r"\sqrt[3]{x-", "}"), (r"\sqrt[<m>]{", "}"), (r"\frac", ""),
            (r"\frac{1}{<s>+", "}"), (r"\frac{x}{1+", "}"), (r"\frac{", "}{3}"), (r"\overline{", "}"), ("|", "|"),
        ]
    )  # fmt: skip
    depth = rng.choice([rng.randint(3, 19), rng.randint(20, 300), 20_000])
    return boxed(_fill(opening, rng) * depth + str(rng.randint(205, 999)) + closing * depth)


def chains(rng: random.Random) -> str:
    units = ["+", "-", "1+", "x+", "1,", "5=", "!", "^", "_", "|x|", "x", "\\pm ", "=", "&", "x^2-", "2\\cdot ", "1/"]
    size = rng.choice([rng.randint(300, 1900), 100_000])
    return boxed((rng.choice(units) * size)[:size] + "1")


def megabytes(rng: random.Random) -> str:
    unit = rng.choice(["A", "9", " ", "{}", "\\boxed{", "\\boxed ", "\\", "$", "\\frac", "{\\", "}", "x^", "9,"])
    text = unit * (1_000_000 // len(unit)) + str(rng.randint(0, 9))
    return boxed(text) if rng.random() < 0.5 else text


def matrices(rng: random.Random) -> str:
    size, entry = rng.randint(2, 12), rng.choice(["x", "10^{9}", "\\frac{1}{x}", "9^{99}", "\\sqrt{2}"])
    rows = r" \\ ".join(" & ".join([f"{entry}+{rng.randint(0, 9)}"] * size) for _ in range(size))
    environment = rng.choice(["pmatrix", "vmatrix", "cases", "array"])
    power = rng.choice(["", "^{-1}", "^{9999}", "^{999999}"])
    return boxed(rf"\begin{{{environment}}}{rows}\end{{{environment}}}{power}")


def long_lists(rng: random.Random) -> str:
    entry = rng.choice(["<m>", "x_{<s>}", "x+<s>", r"\frac{1}{<m>}", r"\pm <s>", r"\sqrt{<s>}"])
    items = _fill(", ".join([entry] * rng.randint(50, 400)), rng)
    brackets = [(r"\{", r"\}"), ("(", ")"), ("[", "]"), ("", ""), (r"\{x : x \in ", r"\}"), (r"(0,1) \cup \{", r"\}")]
    opening, closing = rng.choice(brackets)
    return boxed(opening + items + closing)


def characters(rng: random.Random) -> str:
    odd = "\0\x1b\ud800\udcff\u202e\uff12\u0662\U0001d7d8\u0301\u00bd\u2164\u200b\r\n\t\x7f\ufffe\x85"
    odd += "\U0001f600\u2028\u0130\u00ad"
    text = rng.choices("356789", k=3) + rng.choices(odd, k=rng.choice([1, 3, 200]))
    rng.shuffle(text)
    return boxed("".join(text))


def unmatched_boxes(rng: random.Random) -> str:
    n = rng.randint(2, 30_000)
    before, unit, after = rng.choice(
        [
            ("", "\\boxed{", ""), ("", "\\boxed{204", ""), ("\\boxed{204}\\boxed{", "{", ""), ("", "\\boxed{\\}", ""),
            ("\\boxed{204} \\boxed", "}", ""), ("", "\\boxed\\{204\\}", ""), ("", "\\boxed{}", ""),
            ("", "\\boxed ", ""), ("", "\\fbox{204}", ""), ("", "\\boxedx{204}", ""), ("", "204", ""),
            ("\\boxed{204", "\\}", ""), ("", "\\boxed{", "205" + "}" * n),
        ]
    )  # fmt: skip
    return before + unit * n + after


def delimiters(rng: random.Random) -> str:
    pieces = ["\\left(", "\\right)", "\\left\\{", "\\right.", "\\left|", "\\right|", "\\big[", "\\Bigg\\rangle"]
    pieces += ["\\middle|", "\\left", "\\right", "x", "1", ",", "\\langle", "\\lfloor", "\\rceil"]
    return boxed(" ".join(rng.choices(pieces, k=rng.choice([5, 20, 60, 5000]))))


def tokens(rng: random.Random) -> str:
    pieces = [r"\frac{", r"\sqrt{", "}", "{", "(", ")", "^", "_", "9", "10", "!", r"\pm", "x", "i", "e", ",", "=", " "]
    pieces += [r"\left", r"\right", r"\{", r"\}", r"\text{", "%", r"\%", r"\infty", "\\", "&", r"\pi", ".", "|", "<"]
    return boxed("".join(rng.choices(pieces, k=rng.randint(4, 60))))


FAMILIES: dict[str, Family] = {
    **{name: partial(_spelled, block) for name, block in SPELLINGS.items()},
    "nested": nested,
    "chains": chains,
    "megabytes": megabytes,
    "matrices": matrices,
    "long lists": long_lists,
    "characters": characters,
    "unmatched boxes": unmatched_boxes,
    "delimiters": delimiters,
    "random tokens": tokens,
}


def hostile_pairs(count: int, seed: int) -> dict[str, list[Pair]]:
    """(gold, completion) pairs by family: `count` in all, the families and the golds in turn."""
    rng = random.Random(seed)
    pairs: dict[str, list[Pair]] = {name: [] for name in FAMILIES}
    for name in itertools.islice(itertools.cycle(FAMILIES), count):
        pairs[name].append((GOLDS[len(pairs[name]) % len(GOLDS)], FAMILIES[name](rng)))
    return {name: own for name, own in pairs.items() if own}
