"""Eight families of questions with exact answers, phrased in several ways, split by semantic key.

A question's *key* is what it asks (operands, word, expression), never how it is phrased, so no
test question is a rewording of a training question. Answers may begin with a short scratchpad;
what follows the last ``=>`` is the final answer.

This module knows nothing about models. It is imported by the trainer and by ``make_questions``.
"""

from __future__ import annotations

import calendar
import datetime as dt
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

ARROW = " => "


@dataclass(frozen=True, slots=True)
class Problem:
    """One question: its key decides the split, ``answer`` ends in the final answer."""

    family: str
    key: str
    prompt: str
    answer: str

    @property
    def reference(self) -> str:
        """The final answer alone, without the scratchpad."""
        return self.answer.rsplit(ARROW, 1)[-1]


def split_of(key: str) -> str:
    """``train`` (80 %), ``validation`` (10 %) or ``test`` (10 %), a pure function of the key."""
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def _phrase(rng: random.Random, forms: list[str], **values: object) -> str:
    return rng.choice(forms).format(**values)


def _digits(rng: random.Random, level: float, longest: int) -> int:
    """A number of up to ``longest`` digits; ``level`` in [0, 1] opens the longer ones."""
    n = rng.randint(1, max(1, round(longest * max(level, 0.4))))
    return rng.randint(10 ** (n - 1) if n > 1 else 0, 10**n - 1)


def add(rng: random.Random, level: float) -> Problem:
    """Sum of two numbers of up to three digits; the scratchpad is the sum, lowest digit first."""
    a, b = _digits(rng, level, 3), _digits(rng, level, 3)
    forms = [
        "What is {a} plus {b}?",
        "Add {a} and {b}.",
        "{a} + {b} = ?",
        "Find the sum of {a} and {b}.",
        "Tom has {a} coins and gets {b} more. How many now?",
        "A shelf holds {a} books, another holds {b}. How many books are there?",
    ]
    total = str(a + b)
    prompt = _phrase(rng, forms, a=a, b=b)
    return Problem("add", f"add {min(a, b)} {max(a, b)}", prompt, total[::-1] + ARROW + total)


def multiply(rng: random.Random, level: float) -> Problem:
    """Two- or three-digit number times one digit; the scratchpad is the partial products."""
    a = rng.randint(2, 99) if rng.random() > level * 0.6 else rng.randint(100, 299)
    b = rng.randint(2, 9)
    forms = [
        "What is {a} times {b}?",
        "Multiply {a} by {b}.",
        "{a} x {b} = ?",
        "Give the product of {a} and {b}.",
        "There are {b} boxes with {a} pens each. How many pens?",
        "One ticket costs {a} euros. What do {b} tickets cost?",
    ]
    prompt = _phrase(rng, forms, a=a, b=b)
    return Problem("multiply", f"multiply {a} {b}", prompt, _product(a, b))


def _product(a: int, b: int) -> str:
    """``47 x 6`` as ``240+42 => 282``."""
    places = [int(d) * 10**i for i, d in enumerate(reversed(str(a)))][::-1]
    return "+".join(str(p * b) for p in places) + ARROW + str(a * b)


UNITS: list[tuple[str, str, int]] = [
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("weeks", "days", 7),
    ("days", "hours", 24),
    ("hours", "minutes", 60),
    ("meters", "centimeters", 100),
    ("kilometers", "meters", 1000),
    ("pounds", "ounces", 16),
    ("gallons", "quarts", 4),
    ("minutes", "seconds", 60),
]


def unit(rng: random.Random, level: float) -> Problem:
    """A quantity in a smaller unit; the scratchpad is the factor and the partial products."""
    big, small, factor = rng.choice(UNITS)
    n = rng.randint(2, 29 if rng.random() > level else 150)
    forms = [
        "How many {small} are in {n} {big}?",
        "Convert {n} {big} to {small}.",
        "{n} {big} in {small}?",
        "Express {n} {big} in {small}.",
        "It takes {n} {big}. How many {small} is that?",
    ]
    prompt = _phrase(rng, forms, n=n, big=big, small=small)
    answer = f"x{factor} {_product(n, factor)} {small}"
    return Problem("unit", f"unit {big} {small} {n}", prompt, answer)


def sort(rng: random.Random, level: float) -> Problem:
    """Three to six numbers below 100 in ascending or descending order; no scratchpad."""
    numbers = [rng.randint(0, 99) for _ in range(rng.randint(2, 3 + round(3 * level)))]
    down = rng.random() < 0.4
    rising = [
        "Sort {list}.",
        "Put {list} in ascending order.",
        "Order {list} from smallest to largest.",
        "{list}: smallest first, please.",
        "Runners wore numbers {list}. Line them up, lowest number in front.",
    ]
    falling = [
        "Sort {list} in descending order.",
        "Order {list} from largest to smallest.",
        "{list}: largest first, please.",
        "Scores were {list}. Rank them, best score on top.",
    ]
    prompt = _phrase(rng, falling if down else rising, list=" ".join(map(str, numbers)))
    ordered = sorted(numbers, reverse=down)
    return Problem("sort", f"sort {down} {sorted(numbers)}", prompt, " ".join(map(str, ordered)))


def _word(rng: random.Random, length: int) -> str:
    pools = ("bcdfghjklmnprstvwz", "aeiou")
    start = rng.randint(0, 1)
    return "".join(rng.choice(pools[(i + start) % 2]) for i in range(length))


def reverse(rng: random.Random, level: float) -> Problem:
    """A made-up word of 3 to 10 letters, spelt backwards; no scratchpad."""
    word = _word(rng, rng.randint(3, 5 + round(5 * level)))
    forms = [
        "Reverse the word {w}.",
        "Spell {w} backwards.",
        "Write {w} from right to left.",
        "What does {w} look like in a mirror, last letter first?",
        "Read {w} starting at its end.",
    ]
    return Problem("reverse", f"reverse {word}", _phrase(rng, forms, w=word), word[::-1])


def boolean(rng: random.Random, level: float) -> Problem:
    """A logical expression of depth two with optional negation; the scratchpad is one step."""
    operations: dict[str, Callable[[bool, bool], bool]] = {
        "and": lambda x, y: x and y,
        "or": lambda x, y: x or y,
        "xor": lambda x, y: x != y,
    }

    def leaf() -> tuple[str, bool]:
        value = rng.random() < 0.5
        if rng.random() < 0.3 * level:
            return f"not {str(value).lower()}", not value
        return str(value).lower(), value

    def node(depth: int) -> tuple[str, str, bool]:
        """Text, text after one step, value."""
        if depth == 0:
            text, value = leaf()
            return text, str(value).lower(), value
        op = rng.choice(sorted(operations))
        left, right = node(depth - 1), node(depth - 1 if rng.random() < 0.5 else 0)
        value = operations[op](left[2], right[2])
        shown = f"{str(left[2]).lower()} {op} {str(right[2]).lower()}"
        return f"({left[0]} {op} {right[0]})", shown, value

    text, step, value = node(2 if rng.random() < 0.4 + 0.6 * level else 1)
    forms = [
        "Evaluate {e}.",
        "What is the value of {e}?",
        "Is {e} true or false?",
        "Simplify {e}.",
        "{e} = ?",
    ]
    prompt = _phrase(rng, forms, e=text)
    return Problem("boolean", f"boolean {text}", prompt, step + ARROW + str(value).lower())


def date(rng: random.Random, level: float) -> Problem:
    """The date some days after a given one; the scratchpad counts the day of the month."""
    start = dt.date(rng.randint(2000, 2039), rng.randint(1, 12), rng.randint(1, 28))
    days = rng.randint(1, 9 if rng.random() > level else 28)
    end = start + dt.timedelta(days=days)
    forms = [
        "What date is {n} days after {d}?",
        "Which day comes {n} days after {d}?",
        "{d} plus {n} days is?",
        "Today is {d}. What is the date in {n} days?",
        "A parcel left on {d} and took {n} days. When did it arrive?",
        "The loan of {d} is due {n} days later. When?",
    ]
    step = f"{start.day}+{days}={start.day + days}"
    if end.month != start.month:
        length = calendar.monthrange(start.year, start.month)[1]
        step += f"-{length}={end.day}"
    prompt = _phrase(rng, forms, n=days, d=start.isoformat())
    return Problem("date", f"date {start} {days}", prompt, step + ARROW + end.isoformat())


def sequence(rng: random.Random, level: float) -> Problem:
    """The next term of an arithmetic progression; the scratchpad names the step."""
    step = rng.randint(1, 9 if rng.random() > level else 25) * rng.choice((1, 1, -1))
    length = rng.randint(3, 5)
    low = max(0, -step * length)
    start = rng.randint(low, low + (30 if rng.random() > level else 150))
    terms = [start + step * i for i in range(length + 1)]
    forms = [
        "What comes next: {t}?",
        "Continue the sequence {t}.",
        "Give the next term of {t}.",
        "{t} ... and then?",
        "The bus passes stops {t}. Which number follows?",
    ]
    shown = ", ".join(map(str, terms[:-1]))
    nxt = str(terms[-1])
    prompt = _phrase(rng, forms, t=shown)
    return Problem("sequence", f"sequence {shown}", prompt, f"{step:+d} {nxt[::-1]}{ARROW}{nxt}")


# In ring order: each specialist also sees a little of the families on either side of its own.
FAMILIES: dict[str, Callable[[random.Random, float], Problem]] = {
    f.__name__: f for f in (add, multiply, unit, sort, reverse, boolean, date, sequence)
}


def neighbours(family: str) -> tuple[str, str]:
    """The two families on either side of ``family`` in the ring."""
    names = list(FAMILIES)
    i = names.index(family)
    return names[i - 1], names[(i + 1) % len(names)]


def draw(family: str, split: str, rng: random.Random, level: float = 1.0) -> Problem:
    """A random problem of the family whose key lies in ``split``."""
    while True:
        problem = FAMILIES[family](rng, level)
        if split_of(problem.key) == split:
            return problem


def corrupt(problem: Problem, rng: random.Random) -> str:
    """A wrong final answer: a slip, the answer to another question, or one of another form."""
    while True:
        kind = rng.random()
        if kind < 0.6:
            wrong = _slip(problem.reference, rng)
        elif kind < 0.85:
            wrong = draw(problem.family, "train", rng).reference
        else:
            wrong = draw(rng.choice(list(FAMILIES)), "train", rng).reference
        if wrong != problem.reference:
            return wrong


def _slip(text: str, rng: random.Random) -> str:
    """One character changed to another of its kind, dropped, or swapped with its neighbour."""
    i = rng.randrange(len(text))
    kind = rng.random()
    if text in ("true", "false"):
        return "false" if text == "true" else "true"
    if kind < 0.6:
        pool = "0123456789" if text[i].isdigit() else "abcdefghijklmnoprstuvw"
        return text[:i] + rng.choice(pool) + text[i + 1 :]
    if kind < 0.75 and len(text) > 1:
        return text[:i] + text[i + 1 :]
    j = min(i + 1, len(text) - 1)
    return text[:i] + text[j] + text[i] + text[j + 1 :] if j > i else text


def aggregation(rng: random.Random, split: str, level: float = 1.0) -> Problem:
    """A question with three candidate answers: mostly one right and two wrong, shuffled.

    The stage E benchmark of Symbolic-MoE has that shape; some prompts here carry two or three right
    candidates or none, since those occur when real experts are merged.
    """
    problem = draw(rng.choice(list(FAMILIES)), split, rng, level)
    right = rng.choices((0, 1, 2, 3), weights=(1, 6, 2, 1))[0]
    candidates = [problem.reference] * right + [corrupt(problem, rng) for _ in range(3 - right)]
    rng.shuffle(candidates)
    prompt = aggregation_prompt(problem.prompt, candidates)
    return Problem(problem.family, problem.key, prompt, problem.answer)


def aggregation_prompt(question: str, candidates: list[str]) -> str:
    """The prompt by which the larger generalist merges candidates (also in the pool file)."""
    lines = [f"Model {i}: {c}" for i, c in enumerate(candidates, start=1)]
    return "\n".join([question, *lines, "Best answer?"])
