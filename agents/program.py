"""A step as each agent carries it out: its verbs in order, with the names of what they take and publish.

    method.step(recorder, t) ---> every agent's calls ---> in each agent's process: take, compute, publish

A method's ``step`` sees opaque values only, so a recording of it is the step itself, whatever the values will be. Every process
records the same program, and nobody has to send one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sparring.agents.exchange import flatten
from sparring.trainers.methods.base import Method

Verb: TypeAlias = Literal["craft", "answer", "predict", "learn"]


@dataclass(frozen=True, slots=True)
class Value:
    """What an agent publishes in a step, by its place among all that it publishes there."""

    of: str
    index: int


@dataclass(frozen=True, slots=True)
class Call:
    """One verb of one agent."""

    verb: Verb
    attack: str | None  # of craft
    takes: tuple[tuple[str, Any], ...]  # flat keyword -> a Value, or a constant of the method's
    gives: Value | None  # learn publishes nothing


@dataclass(slots=True)
class Program:
    """A whole step."""

    calls: dict[str, list[Call]] = field(default_factory=dict)  # by agent, in their order

    def readers(self) -> dict[Value, tuple[str, ...]]:
        """Per value that travels, the other agents that take it, in the order of roles."""
        found: dict[Value, list[str]] = {}
        for me, calls in self.calls.items():
            for value in dict.fromkeys(v for call in calls for _, v in call.takes if isinstance(v, Value)):
                if value.of != me:
                    found.setdefault(value, []).append(me)
        return {value: tuple(agents) for value, agents in found.items()}

    def makers(self) -> dict[Value, Call]:
        """Per value, the call that publishes it."""
        return {call.gives: call for calls in self.calls.values() for call in calls if call.gives is not None}


class _Handle:
    """An agent whose verbs are noted instead of carried out."""

    def __init__(self, me: str, calls: list[Call]) -> None:
        self._me, self._calls = me, calls

    def craft(self, t: int, *, attack: str = "train", **hints: Any) -> Value:
        return self._publishes("craft", hints, attack)

    def answer(self, t: int, on: Any = None) -> Value:
        return self._publishes("answer", asked(on))

    def predict(self, t: int, **seen: Any) -> Value:
        return self._publishes("predict", seen)

    def learn(self, t: int, **seen: Any) -> None:
        self._calls.append(Call("learn", None, tuple(flatten(seen).items()), None))

    def _publishes(self, verb: Verb, seen: Mapping[str, Any], attack: str | None = None) -> Value:
        value = Value(self._me, sum(call.gives is not None for call in self._calls))
        self._calls.append(Call(verb, attack, tuple(flatten(seen).items()), value))
        return value


def asked(on: Any) -> dict[str, Any]:
    """The keywords of ``answer``: none for the agent's own clean batch."""
    return {} if on is None else flatten({"on": on})


def recorded(method: Method, t: int) -> Program:
    """What every agent does in step ``t``."""
    program = Program({role: [] for role in method.roles()})
    method.step({role: _Handle(role, calls) for role, calls in program.calls.items()}, t)
    return program
