"""The calls of a provider's API as commands, derived from what the API says of itself."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from receiver import clock
from receiver.database.engine import persist
from worker.calls import outcome as call_outcome
from worker.calls import record as call_record
from worker.calls.caller import Answer, Caller
from worker.cli import _call_parameters, _output
from worker.cli._advice import explain
from worker.cli._call_answers import listed, show
from worker.cli._call_parameters import option
from worker.cli._output import Output, complain, write
from worker.cli._store import Store, opened
from worker.cli.wait import TIMED_OUT
from worker.messages.text import timestamp
from worker.outbox.call_budgets import OutOfBudget
from worker.providers.base import Call, ProviderApi
from worker.providers.errors import ProviderError, ProviderOutcomeUnknown
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Result
from worker.runtime.integrations import connected_api
from worker.schema import migrate as schema
from worker.schema.states import WAITING

_WRONG_USAGE = 2
# What keeps an answer from being recorded; ValueError: it holds what no database can.
_UNRECORDED = (SQLAlchemyError, ValueError)
_ROLE = re.compile(r":\w+:`(.*?)`")  # what a docstring refers to, as a person reads it
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")]
_OnlyId = Annotated[
    bool, typer.Option("--id", help="Print the order's id alone, for codecatch wait.")
]


def commands(provider: type[ProviderApi], help_: str) -> typer.Typer:
    """A command for each call of the API."""
    nouns = typer.Typer(name=provider.name, help=help_, no_args_is_help=True)
    for call in provider.calls.values():
        nouns.command(call.name.replace("_", "-"))(_command(provider, call))
    return nouns


def _command(provider: type[ProviderApi], call: Call) -> Callable[..., None]:
    """A function with the signature that Typer is to read."""
    method = getattr(provider, call.name)
    parameters = _call_parameters.of(method)
    names = [each.name for each in parameters]

    def run(**given: Any) -> None:
        only_id, yes = given.pop("only_id", False), given.pop("yes", True)
        output = Output(given.pop("as_json"), given.pop("as_csv", False), given.pop("reveal"))
        arguments = {name: given[name] for name in names}
        _Invocation(provider, call, arguments, output, only_id).run(yes=yes)

    shared = [option("as_json", _output.AsJson), option("reveal", _output.Reveal)]
    if listed(method):
        shared.append(option("as_csv", _output.AsCsv))
    if call.spends:
        shared.append(option("yes", _Yes))
    if _buys(call):
        shared.append(option("only_id", _OnlyId))
    run.__dict__["__signature__"] = inspect.Signature([*parameters, *shared])
    run.__doc__ = _ROLE.sub(r"\1", inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0])
    return run


def _buys(call: Call) -> bool:
    return call.state == WAITING and not call.swaps


@dataclass(frozen=True, slots=True)
class _Invocation:
    """One call with its arguments, and how its answer is to be shown."""

    provider: type[ProviderApi]
    call: Call
    arguments: Mapping[str, object]
    output: Output
    only_id: bool

    def run(self, *, yes: bool) -> None:
        """Make the call and show what it gave; whatever goes wrong ends the command."""
        with connected_api(self.provider.name) as api, opened() as store:
            if self.call.spends:
                # What is bought must be recorded, so nothing is bought that cannot be.
                if not schema.is_current(store.database):
                    complain("DATABASE_URL: the database is of another version: codecatch migrate")
                    raise typer.Exit(1)
                if not yes:
                    self._ask()
            caller = Caller(store.database, api, self._tell_of_waiting)
            try:
                caller.pay(self.call)
            except OutOfBudget as spent:
                complain(f"{self._name}: no such call may be made before {timestamp(spent.until)}")
                raise typer.Exit(1) from None
            asked_at = clock.now()
            try:
                answer = caller.make(self.call, self.arguments)
            except ProviderError as error:
                self._after(error, caller, store, asked_at)
                raise typer.Exit(1) from None
            except KeyboardInterrupt:
                if self.call.spends:
                    complain(f"{self._name}: interrupted, and it may have been done: {self._how}")
                raise
            self._show(answer, api.client, store, asked_at)

    @property
    def _name(self) -> str:
        return f"{self.provider.name} {self.call.name}"

    @property
    def _how(self) -> str:
        """How a person looks at what became of the call."""
        look = self.provider.calls[self.call.look or ""]
        asked = call_outcome.look_arguments(self.provider, look, self.arguments)
        words = ["codecatch", self.provider.name, look.name.replace("_", "-")]
        return f"look before you repeat it: {shlex.join([*words, *map(str, asked.values())])}"

    def _ask(self) -> None:
        if not sys.stdin.isatty():
            complain(f"{self._name}: it can cost money: say --yes where nobody can be asked")
            raise typer.Exit(_WRONG_USAGE)
        given = [f"{name} {value}" for name, value in self.arguments.items() if value is not None]
        question = f"{', '.join([self._name, *given])}: it can cost money. Do it?"
        if not typer.confirm(question, err=True):
            complain("nothing was asked of the provider")
            raise typer.Exit(1)

    def _tell_of_waiting(self, until: datetime) -> None:
        complain(f"{self._name}: too many calls lately: waiting until {timestamp(until)}")

    def _show(self, answer: Answer, client: ProviderApi, store: Store, asked_at: datetime) -> None:
        reported = answer.about_order(self.arguments) if isinstance(answer, Result) else None
        trouble = None
        known = False
        if reported is not None:
            try:
                known = self._record(reported, client, store, asked_at)
            except _UNRECORDED as error:
                trouble = type(error).__name__
        if self.only_id and reported is not None:
            write(reported.order_id)
        else:
            show(answer, listed(getattr(self.provider, self.call.name)), self.output)
        if trouble is not None:
            complain(f"{self._name}: done, but it cannot be recorded ({trouble})")
            raise typer.Exit(1)
        if self.call.waits and not (getattr(answer, "code", None) or getattr(answer, "text", None)):
            raise typer.Exit(TIMED_OUT)
        if known and reported is not None and not self.only_id and not self.output.json:
            self._say_what_next(reported)

    def _record(
        self, reported: ReportedOrder, client: ProviderApi, store: Store, asked_at: datetime
    ) -> bool:
        def write_down() -> bool:
            with store.database.transaction() as session:
                now = store.database.now(session)
                return call_record.record(
                    session, store.vault, client, self.call, reported, asked_at=asked_at, now=now
                )

        return persist(write_down)

    def _say_what_next(self, reported: ReportedOrder) -> None:
        if self.call.state != WAITING:
            return
        order = shlex.join([reported.order_id, "--provider", self.provider.name])
        if not self.output.reveal:
            complain(f"the number: codecatch orders show {order} --reveal")
        complain(f"the code: codecatch wait {order}")

    def _after(
        self, error: ProviderError, caller: Caller, store: Store, asked_at: datetime
    ) -> None:
        """Say what went wrong, and for what may have been done, what became of it."""
        if self.call.waits and isinstance(error, ProviderOutcomeUnknown):
            complain(f"{error}: no message so far; ask again")
            raise typer.Exit(TIMED_OUT)
        if not (self.call.spends and error.unknown):
            complain(explain(error, self.provider.name, reveal=self.output.reveal))
            return
        complain(f"{error}: it may have been done, so it is looked at and not repeated")
        try:
            found = call_outcome.look(
                caller, store.vault, self.call, self.arguments, asked_at=asked_at
            )
        except (ProviderError, OutOfBudget) as failed:
            complain(f"what became of it is not known ({failed}): {self._how}")
            return
        except _UNRECORDED as failed:
            reason = type(failed).__name__
            complain(f"what became of it is not known ({reason}): {self._how}")
            return
        if found.order is not None:
            show(found.order, None, self.output)
        if found.done:
            complain(f"{self._name}: done, as the order shows")
            raise typer.Exit(0)
        if found.order is not None:
            complain(f"{self._name}: that is how the order stands now; {self._how}")
        for reported in found.made:
            order = shlex.join([reported.order_id, "--provider", self.provider.name])
            complain(f"an order that is new: it may be the one: codecatch wait {order}")
        if found.order is None and not found.made:
            complain(f"no new order is listed; {self._how}")
