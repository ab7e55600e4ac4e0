"""What all checks share: an answer beside the right one, case by case.

A check is a function that observes: it calls an answer with one case and
returns what it saw, {name: value}. `check` turns it into a `Check`, which
observes the student's answer and the right one on the same inputs. Where they
differ, it observes the known mistakes too: the one that gives the same all
along lends its hint. So a mistake is written once, as code with its hint (most
as an edit of the right answer, see `edited`): the check explains with it, and
tests/test_checks.py puts it to the check.

`measured` makes checks of experiments, which judge by the numbers alone.
"""

import contextlib
import copy
import fnmatch
import functools
import inspect
import os
import random
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from utils.checks.isolation import World, pristine, read_settings, set_back

# Bound when the course loads the checks, before an answer can delete it
GRADING = "NBGRADER_EXECUTION" in os.environ
SECONDS = 60  # for one check; experiments have more
ALONE = "it changes {}, for the whole program: leave that alone"
GIVEN = "what it was given"
CHANGED = "it changes what it was given in place: work on new tensors or copies"
WRITE = "it returned nothing: write its body and end with return"


class NotYet(AssertionError):
    """What is wrong with an answer, as a hint."""


class Raised(NotYet):
    """The answer raised something; says what, and for which input."""


class Broken(Exception):
    """The check itself fails, whatever the answer."""


class TooLong(BaseException):
    """The time is over. No Exception, lest the answer's own `except` takes it."""


@dataclass(frozen=True)
class Result:
    """A verdict. True where the answer passed.

    cases: how many were right, and how many were tried.
    """

    name: str
    passed: bool
    cases: tuple[int, int]
    hint: str = ""
    praise: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        right, tried = self.cases
        if self.passed:
            return f"Passed: {self.praise} ({right} of {tried} cases)"
        return f"Not yet: {self.hint} ({right} of {tried} cases right)"


results: dict[str, Result] = {}  # the last result of each check, for graders


def answers(one_or_more: Callable | tuple) -> tuple:
    return one_or_more if isinstance(one_or_more, tuple) else (one_or_more,)


def expect(condition: object, hint: str) -> None:
    """Raise NotYet(hint) unless the condition holds."""
    if not condition:
        raise NotYet(hint)


def edited(answer: Callable, edits: Mapping[str, str]) -> dict[str, tuple]:
    """{hint: answers}: a right answer with a part of its text exchanged.

    edits: {"old -> new": hint}; "; " stands between several parts. ValueError:
        the old text does not stand there.
    """
    table: dict[str, tuple] = {}
    for edit, hint in edits.items():
        table[hint] = *table.get(hint, ()), with_edit(answer, edit)
    return table


@functools.cache
def _source(answer: Callable) -> str:
    return textwrap.dedent(inspect.getsource(answer))


def with_edit(answer: Callable, edit: str, **more: object) -> Callable:
    """The answer with one edit; more: names that the new text needs."""
    text, names = _source(answer), {}
    for part in edit.split("; "):
        old, _, new = part.partition(" -> ")
        if old not in text:
            raise ValueError(f"{answer.__name__} does not contain {old!r}")
        text = text.replace(old, new)
    own = vars(sys.modules[answer.__module__])
    exec(text, own | more if more else own, names)
    return names[answer.__name__]


def named(template: str, *rows: tuple) -> dict[str, tuple]:
    """Cases that are called by what they hold: {template with the row: row}.

    What a row lacks at its end is empty. An argument that may be left out comes
    as (), or as (value,).
    """

    def word(value: object) -> object:
        if isinstance(value, tuple) and len(value) < 2:
            return value[0] if value else "not given"
        if isinstance(value, type):
            return value.__name__
        if isinstance(value, dict):
            return ", ".join(f"{key}={word(v)}" for key, v in value.items())
        return value

    def name(row: tuple) -> str:
        text = template.format(*map(word, row), *[""] * template.count("{"))
        return ", ".join(part for part in text.split(", ") if part.strip(" :bn"))

    cases = {name(row): row for row in rows}
    if len(cases) < len(rows):
        raise ValueError(f"two cases have one name: {[*map(name, rows)]}")
    return cases


def as_said(x: Tensor, how: str) -> Tensor:
    """The same numbers in "float32", or "not contiguous"; as they are, otherwise."""
    if how == "not contiguous":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    return x.float() if how == "float32" else x


def is_stub(seen: object) -> bool:
    return isinstance(seen, NotYet) and str(seen) == WRITE


def expect_written(result: object) -> None:
    """Tell a stub, which returns None or ..., from an answer."""
    expect(result is not None and result is not Ellipsis, WRITE)


def numbers(result: object, shape: tuple[int, ...], what: str) -> Tensor:
    """A tensor, array or list of numbers as a tensor of this shape, in float64.

    shape: (), one number, may come in any shape. what: what to return, as the
    hint says it.
    """
    try:
        if not hasattr(result, "shape") and isinstance(result, Iterable):
            kind = torch.float64
            result = torch.stack([torch.as_tensor(v, dtype=kind) for v in result])
        values = torch.as_tensor(result, dtype=torch.float64).detach()
        if shape == () and values.numel() == 1:
            values = values.reshape(())
        got = tuple(values.shape)
    except (TypeError, ValueError, RuntimeError):
        got = tuple(getattr(result, "shape", ())) or type(result).__name__
    asked = f"{what}, {shape}" if shape else what
    expect(got == shape, f"it should return {asked}; got {got}")
    return values


def told(value: object) -> str:
    """An argument in a few words: shape and type of a tensor, kind of a layer."""
    if isinstance(value, (Tensor, np.ndarray)):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"an input of shape {tuple(value.shape)} ({dtype})"
    if isinstance(value, nn.Module):
        return type(value).__name__
    return repr(value) if isinstance(value, (bool, int, float, str, tuple)) else ""


@contextlib.contextmanager
def same_numbers():
    """What an answer draws is not missing afterwards: the check draws the same."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def noted(value: object) -> object:
    """A copy of tensors, arrays and lists; nothing of all else, layers too."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.deepcopy(value) if isinstance(value, (np.ndarray, list)) else None


def identical(a: object, b: object) -> bool:
    """To the last digit, nan to nan."""
    if not isinstance(a, (Tensor, np.ndarray)):
        return a == b
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


class Guarded:
    """An answer, or the layer that it made: what it raises tells the input.

    strict: it may not change settings of the process; experiments may.
    returns: it is a stub if it returns nothing.
    changed: for each argument of each call, whether its numbers changed.
    """

    def __init__(self, function: Callable, strict: bool = True, returns: bool = False):
        self.function, self.strict, self.returns = function, strict, returns
        self.changed: list[bool] = []

    def __call__(self, *arguments: object, **named: object) -> object:
        expect(callable(self.function), f"{WRITE}; got {self.function!r}")
        settings, before = read_settings(), [noted(a) for a in arguments]
        try:
            with same_numbers():
                result = self.function(*arguments, **named)
        except (Exception, SystemExit) as error:
            kind, said = type(error).__name__, str(error).partition("\n")[0]
            names = [told(a) for a in arguments]
            names += [f"{name} = {told(a)}" for name, a in named.items() if told(a)]
            given = ", ".join(name for name in names if name) or "no arguments"
            hint = f"your function raised {kind}: {said}, for {given}"
            raise Raised(hint) from error
        finally:
            changed = set_back(settings)
        expect(not (changed and self.strict), ALONE.format(", ".join(changed)))
        if self.returns:
            expect_written(result)
        pairs = zip(map(noted, arguments), before)
        self.changed += [not identical(now, then) for now, then in pairs]
        return result


def same(a: object, b: object, rtol: float = 1e-7, atol: float = 1e-9) -> bool:
    """Equal but for rounding, nan to nan; shapes and types of tensors, too.

    With operators only: they can't be replaced as torch.allclose can.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if a.dtype == torch.float32:
            rtol, atol = max(rtol, 1e-3), max(atol, 1e-4)
        if not a.is_floating_point():
            return bool((a == b).all())
        a, b = a.detach().double(), b.detach().double()
        near = ((a - b).abs() <= atol + rtol * b.abs()) | (a == b)
        return bool((near | ((a != a) & (b != b))).all())
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= atol + rtol * abs(b) or a == b or (a != a and b != b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        pairs = zip(a, b)
        return len(a) == len(b) and all(same(x, y, rtol, atol) for x, y in pairs)
    return type(a) is type(b) and a == b


def difference(name: str, got: object, right: object) -> str:
    """What is wrong with one observed value."""
    if isinstance(right, Tensor) and isinstance(got, Tensor):
        if got.shape != right.shape:
            shapes = f"{tuple(right.shape)}, got {tuple(got.shape)}"
            return f"{name} should have shape {shapes}"
        if got.dtype != right.dtype:
            kinds = f"{right.dtype}: got {got.dtype}"
            return f"{name} should keep the precision of the input, {kinds}"
        if bool(right.isfinite().all()) and not bool(got.isfinite().all()):
            return f"{name} is nan or infinite"
        off = int((got.double() - right.double()).abs().nan_to_num(torch.inf).argmax())
        got, right = got.flatten()[off].item(), right.flatten()[off].item()
        return f"{name} is off: it should be {right:.6g}, yours is {got:.6g}"
    if isinstance(right, float) and isinstance(got, float):
        return f"{name} should be {right:.6g}, yours is {got:.6g}"
    if isinstance(right, (list, dict)):
        return f"{name}: not what it should be"
    return f"{name} should be {right!r}, it is {got!r}"


Seen = Mapping[str, object] | Exception


def apart(
    got: Seen, right: Seen, tolerance: tuple[float, float], names: Iterable[str] = ()
) -> str | None:
    """The first name at which two observations differ; None if they are equal.

    names: look at these only.
    """
    if isinstance(got, Exception) or isinstance(right, Exception):
        return "raised"
    for name in names or right:
        if (name in got) != (name in right):
            return name
        if name in right and not same(got[name], right[name], *tolerance):
            return name
    new = [name for name in got if name not in right]
    return None if names or not new else new[0]


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raise TooLong after so long; where there is no alarm (Windows), never."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again, if it is swallowed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def calm():
    """Everything that an answer or a check might leave behind is put back.

    What is written to stderr goes to stdout: nbgrader scores stderr with 0.
    """
    with (
        pristine(),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        contextlib.redirect_stderr(sys.stdout),
        torch.random.fork_rng(devices=[]),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        dtype = torch.get_default_dtype()
        plain, numpys = random.getstate(), np.random.get_state()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(plain)
            np.random.set_state(numpys)


class Check:
    """`checks.name(answer)`: prints a verdict and returns a Result.

    Under nbgrader a failed one raises NotYet.

    right: {name: answer}, the first being the reference; an answer passes a
        case if it gives what any of them gives.
    edits: mistakes as {edit of the reference's text: hint}, see `edited`.
    mistakes: others, {hint: an answer, or several}.
    hints: {name of what is observed, with * for any part: what to say where it
        differs}, if no mistake does the same.
    steps: the names are steps of one way; say how far it is right.
    returns: an answer returns something; one that does not is not written yet.
    """

    seconds = SECONDS

    def __init__(
        self,
        observe: Callable[..., Mapping],
        cases: Mapping[str, tuple],
        right: Mapping[str, Callable],
        praise: str,
        mistakes: Mapping[str, Callable | tuple] | None = None,
        edits: Mapping[str, str] | None = None,
        tolerance: tuple[float, float] = (1e-7, 1e-9),
        hints: Mapping[str, str] | None = None,
        steps: bool = False,
        returns: bool = True,
    ):
        self.steps, self.returns = steps, returns
        self.__name__, self.__doc__ = observe.__name__, observe.__doc__
        self.observe, self.cases, self.praise = observe, cases, praise
        first = next(iter(right.values()))
        self.right = right
        self.mistakes = edited(first, edits or {}) | dict(mistakes or {})
        self.tolerance, self.hints = tolerance, hints or {}
        self.rights: dict[str, list[Seen]] = {}  # what is right, once observed

    def add(self, cases: Mapping[str, tuple]) -> None:
        """Try these cases, too: {name: arguments}. Graders have some of their own."""
        if known := {*cases} & {*self.cases}:
            raise ValueError(f"{self.__name__} has these cases already: {known}")
        self.cases = {**self.cases, **cases}

    def __call__(self, answer: Callable) -> Result:
        # Both count: a grader may set it after the checks were loaded
        grading = GRADING or "NBGRADER_EXECUTION" in os.environ
        with calm(), time_limit(self.seconds):
            try:
                right, hint = self.examine(answer)
            except TooLong:
                right, hint = 0, f"no answer after {self.seconds} s: an endless loop?"
            except NotYet as error:
                right, hint = 0, str(error)
            except Broken as error:
                right, hint = 0, f"the check itself fails, please report it: {error}"
        total = len(self.cases)
        result = Result(self.__name__, not hint, (right, total), hint, self.praise)
        results[self.__name__] = result
        print(result)
        if grading and not result:
            raise NotYet(str(result))
        return result

    def see(self, answer: Callable, case: str) -> Seen:
        """What an answer does with a case: always with the same random numbers."""
        seed = list(self.cases).index(case)
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        guarded = Guarded(answer, returns=self.returns)
        try:
            seen = self.observe(guarded, *self.cases[case])
            return dict(seen) | {GIVEN: guarded.changed}
        except NotYet as hint:
            return hint
        except Exception as error:  # not in the answer, but in what comes after it
            kind = type(error).__name__
            return NotYet(f"the check cannot use what it returned ({kind}: {error})")

    def reference(self, case: str) -> list[Seen]:
        if case not in self.rights:
            seen = [self.see(answer, case) for answer in self.right.values()]
            broken = next((s for s in seen if isinstance(s, Exception)), None)
            if broken:
                raise Broken(broken)
            self.rights[case] = seen
        return self.rights[case]

    def fits(self, got: Seen, case: str) -> bool:
        tolerance = self.tolerance
        return any(apart(got, r, tolerance) is None for r in self.reference(case))

    def examine(self, answer: Callable) -> tuple[int, str]:
        """How many cases are right; the hint, empty where all are."""
        for case in self.cases:
            self.reference(case)  # now, with nothing that the answer may change
        seen, world = {}, World()
        try:
            for case in self.cases:
                seen[case] = self.see(answer, case)
                if len(seen) == 1 and is_stub(seen[case]):
                    return 0, WRITE
        finally:
            changed = world.restore()
        expect(not changed, ALONE.format(", ".join(changed)))
        wrong = [case for case in self.cases if not self.fits(seen[case], case)]
        right = len(seen) - len(wrong)
        return right, self.explain(seen, wrong) if wrong else ""

    def explain(self, seen: dict[str, Seen], wrong: list[str]) -> str:
        """The hint of the mistake that does the same; or what differs first."""
        first = wrong[0]
        got, right = seen[first], self.reference(first)[0]
        if isinstance(got, Exception):
            return f"{first}: {got}"
        name, order = apart(got, right, self.tolerance), list(right)
        done = ", ".join(order[: order.index(name)] if name in right else [])
        more = any(g and not r for g, r in zip(got[GIVEN], right[GIVEN]))
        so_far = f"right so far: {done}. " if self.steps and done else ""
        for hint, mistakes in self.mistakes.items():
            for mistake in answers(mistakes):
                if self.does_the_same(mistake, seen, wrong):
                    return so_far + hint
        if more:
            return f"{first}: {CHANGED}"
        if self.steps and name not in got:
            return f"{so_far}Next: {name}"
        for pattern, hint in self.hints.items():
            if fnmatch.fnmatchcase(name, pattern):
                return f"{so_far}{first}: {hint}"
        if name not in got:
            return f"{so_far}{first}: {name} is missing"
        if name not in right:
            return f"{first}: {name} is new, and should not be there"
        return f"{so_far}{first}: {difference(name, got[name], right[name])}"

    def does_the_same(self, mistake: Callable, seen: dict, wrong: list[str]) -> bool:
        """On every case that the answer survived, the wrong ones first.

        Up to the first difference of a case: what comes after may follow from it.
        """
        for case in [*wrong, *(c for c in seen if c not in wrong)]:
            got, right = seen[case], self.reference(case)[0]
            if isinstance(got, Exception):
                continue
            order = list(right)
            if case in wrong and (name := apart(got, right, self.tolerance)) in right:
                order = order[: order.index(name) + 1]
            if apart(got, self.see(mistake, case), self.tolerance, order) is not None:
                return False
        return True


def check(**how: object) -> Callable[[Callable], Check]:
    """Turn a function that observes into a Check; how: its arguments."""
    return lambda observe: Check(observe, **how)


@dataclass(frozen=True)
class Wrong:
    """A mistake in an experiment.

    when: of the means, whether they show it; example: means that do.
    """

    hint: str
    when: Callable[..., bool]
    example: Sequence[float]


def wrong_means(table: Mapping[str, str]) -> list[Wrong]:
    """Mistakes in an experiment: {"condition: example": hint}.

    The means are called a, b, c, d in the condition, and m all together.
    """
    found = []
    for text, hint in table.items():
        condition, _, example = text.partition(": ")

        def when(*m: float, code: object = compile(condition, text, "eval")) -> bool:
            return eval(code, {"m": m} | dict(zip("abcd", m)))

        found.append(Wrong(hint, when, [float(x) for x in example.split()]))
    return found


def per_seed(
    result: object, asked: str, alike: bool = False, seeds: int = 12
) -> list[float]:
    """The mean of one number per seed, (seeds,); alike: they may all be equal."""
    expect_written(result)
    try:
        values = np.asarray(result, dtype=float)
    except Exception as error:  # whatever a strange object raises
        kind = type(error).__name__
        raise NotYet(
            "return one number for each seed, (seeds,): the check cannot use what it "
            f"returned ({kind}: {error})"
        ) from None
    expect(
        values.ndim == 1 and len(values) >= seeds,
        f"return one number for each of {seeds} seeds or more, (seeds,); got shape "
        f"{values.shape}",
    )
    expect(np.isfinite(values).all(), f"some values are not finite: {asked}")
    expect(
        alike or np.ptp(values) > 0, "all seeds have the same value: are they trained?"
    )
    return [float(values.mean())]


class Measured(Check):
    """A check of an experiment, by the means over its seeds alone."""

    seconds = 1800

    def __init__(
        self,
        name: str,
        calls: Sequence[tuple],
        ranges: Sequence[tuple[str, float, float]],
        said: str,
        asked: str,
        wrong: Iterable[Wrong] | Mapping[str, str],
        right: Iterable[Sequence[float]],
        not_finite: str = "choose lower rates",
        read: Callable[[object, str], list[float]] = per_seed,
        fake: Callable[[list[float]], object] | None = None,
    ):
        self.__name__, self.calls, self.ranges = name, calls, ranges
        self.said, self.asked, self.wrong = said, asked, wrong
        if isinstance(wrong, Mapping):
            self.wrong = wrong_means(wrong)
        self.praise = ""
        self.not_finite, self.read = not_finite, read
        self.fake = fake or (lambda means: means[0] + np.linspace(-2, 2, 13))
        self.cases = {text: () for text, *_ in ranges}
        self.right = {f"{means}": self.answer(means) for means in right}
        self.mistakes = {w.hint: self.answer(w.example) for w in self.wrong}

    def answer(self, means: Sequence[float]) -> Callable:
        """An answer that gives these means, for the tests."""
        each = len(means) // len(self.calls)
        parts = [list(means[i : i + each]) for i in range(0, len(means), each)]
        table = dict(zip(self.calls, parts, strict=True))
        return lambda *arguments: self.fake(table[arguments])

    def add(self, cases: Mapping[str, tuple]) -> None:
        name = self.__name__
        raise TypeError(f"{name} is an experiment: hide another Measured, not cases")

    def examine(self, answer: Callable) -> tuple[int, str]:
        guarded, means = Guarded(answer, False, returns=True), []
        world = World()
        try:
            for arguments in self.calls:
                means += self.read(guarded(*arguments), self.not_finite)
        finally:
            world.restore()
        self.praise = found = self.said.format(*means)
        for mistake in self.wrong:
            if mistake.when(*means):
                return 0, f"{found}: {mistake.hint}"
        inside = [low < m < high for m, (_, low, high) in zip(means, self.ranges)]
        if all(inside):
            return len(inside), ""
        text, low, high = self.ranges[inside.index(False)]
        hint = f"{found}; {text} we expect {low:g} to {high:g} {self.asked}"
        return sum(inside), hint
