"""Commands for the calls of a provider's API, derived from the API's declared calls."""

from __future__ import annotations

import inspect
import re
import shlex
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
from worker.cli._output import Output, fail, write, write_error
from worker.cli._store import Store, open_store
from worker.cli.wait import TIMED_OUT
from worker.outbox.call_budgets import OutOfBudget
from worker.providers.base import Call, ProviderApi
from worker.providers.capabilities import ReportsOrders
from worker.providers.errors import ProviderError, ProviderOutcomeUnknown
from worker.providers.reported_order import ReportedOrder
from worker.providers.results import Result
from worker.runtime.integrations import connected_api
from worker.schema.states import WAITING

# Errors that prevent recording an answer; ValueError: it has a character no database can store.
_RECORDING_ERRORS = (SQLAlchemyError, ValueError)
_ROLE = re.compile(r":\w+:`(.*?)`")  # Sphinx roles in docstrings
_OnlyId = Annotated[
    bool, typer.Option("--id", help="Print only the order's id, for codecatch wait.")
]


def commands(provider: type[ProviderApi], help_: str) -> typer.Typer:
    """A Typer application with one command for each call of the API."""
    nouns = typer.Typer(name=provider.name, help=help_, no_args_is_help=True)
    for call in provider.calls.values():
        nouns.command(call.name.replace("_", "-"))(_command(provider, call))
    return nouns


def _command(provider: type[ProviderApi], call: Call) -> Callable[..., None]:
    """A function with the signature that Typer reads."""
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
        shared.append(option("yes", _output.Yes))
    if _buys(call):
        shared.append(option("only_id", _OnlyId))
    run.__dict__["__signature__"] = inspect.Signature([*parameters, *shared])
    run.__doc__ = _ROLE.sub(r"\1", inspect.cleandoc(method.__doc__ or "").partition("\n\n")[0])
    return run


def _buys(call: Call) -> bool:
    return call.state == WAITING and not call.swaps


@dataclass(frozen=True, slots=True)
class _Invocation:
    """One call with its arguments and output format."""

    provider: type[ProviderApi]
    call: Call
    arguments: Mapping[str, object]
    output: Output
    only_id: bool

    def run(self, *, yes: bool) -> None:
        """Make the call and show the answer; any error ends the command."""
        with connected_api(self.provider.name) as api, open_store() as store:
            if self.call.spends and not yes:
                self._confirm()
            caller = Caller(store.database, api, self._report_wait)
            try:
                caller.debit(self.call)
            except OutOfBudget as spent:
                fail(
                    f"{self._name}: the call budget is used up; "
                    f"try again after {clock.iso(spent.until, 'seconds')}"
                )
            asked_at = clock.now()
            try:
                answer = caller.make(self.call, self.arguments)
            except ProviderError as error:
                self._report_error(error, caller, store, asked_at)
                raise typer.Exit(1) from None
            except KeyboardInterrupt:
                if self.call.spends:
                    write_error(
                        f"{self._name}: interrupted; the call may have succeeded; "
                        f"{self._how_to_check}"
                    )
                raise
            self._show(answer, api.client, store, asked_at)

    @property
    def _name(self) -> str:
        return f"{self.provider.name} {self.call.name}"

    @property
    def _how_to_check(self) -> str:
        """The command that shows the outcome of the call."""
        look = self.provider.calls[self.call.lookup or ""]
        asked = call_outcome.lookup_arguments(self.provider, look, self.arguments)
        words = ["codecatch", self.provider.name, look.name.replace("_", "-")]
        return f"check before you retry: {shlex.join([*words, *map(str, asked.values())])}"

    def _confirm(self) -> None:
        given = [f"{name} {value}" for name, value in self.arguments.items() if value is not None]
        _output.confirm(
            f"{self._name}: this can cost money",
            f"{', '.join([self._name, *given])}: this can cost money. Continue?",
            declined="cancelled; the provider was not called",
        )

    def _report_wait(self, until: datetime) -> None:
        moment = clock.iso(until, "seconds")
        write_error(f"{self._name}: the call budget is used up; waiting until {moment}")

    def _show(self, answer: Answer, client: ProviderApi, store: Store, asked_at: datetime) -> None:
        reported = answer.as_reported_order(self.arguments) if isinstance(answer, Result) else None
        recording_error = None
        recorded = False
        if reported is not None:
            try:
                recorded = self._record(reported, client, store, asked_at)
            except _RECORDING_ERRORS as error:
                recording_error = type(error).__name__
        if self.only_id and reported is not None:
            write(reported.order_id)
        else:
            show(answer, listed(getattr(self.provider, self.call.name)), self.output)
        if recording_error is not None:
            fail(
                f"{self._name}: the call succeeded, but its result cannot be recorded "
                f"({recording_error}); keep the output above"
            )
        if self.call.long_poll and not (
            getattr(answer, "code", None) or getattr(answer, "text", None)
        ):
            raise typer.Exit(TIMED_OUT)
        if recorded and reported is not None and not self.only_id and not self.output.json:
            self._suggest_next(reported, client)

    def _record(
        self, reported: ReportedOrder, client: ProviderApi, store: Store, asked_at: datetime
    ) -> bool:
        def record() -> bool:
            with store.database.transaction() as session:
                now = store.database.now(session)
                return call_record.record(
                    session, store.vault, client, self.call, reported, asked_at=asked_at, now=now
                )

        return persist(record)

    def _suggest_next(self, reported: ReportedOrder, client: ProviderApi) -> None:
        if self.call.state != WAITING:
            return
        order = shlex.join([reported.order_id, "--provider", self.provider.name])
        if reported.phone_number is None and isinstance(client, ReportsOrders):
            look = client.polling_policy().order_call.replace("_", "-")
            asking = shlex.join(["codecatch", self.provider.name, look, reported.order_id])
            write_error(f"the answer has no phone number; to ask for it: {asking}")
        elif not self.output.reveal:
            write_error(f"to show the number: codecatch orders show {order} --reveal")
        write_error(f"to wait for the code: codecatch wait {order}")

    def _report_error(
        self, error: ProviderError, caller: Caller, store: Store, asked_at: datetime
    ) -> None:
        """Report an error; after an unknown outcome, look up and report what happened."""
        if self.call.long_poll and isinstance(error, ProviderOutcomeUnknown):
            write_error(f"{error}: no message yet; try again")
            raise typer.Exit(TIMED_OUT)
        if not (self.call.spends and error.unknown):
            write_error(explain(error, self.provider.name, reveal=self.output.reveal))
            return
        write_error(f"{error}: the outcome is unknown; checking, the call is not repeated")
        try:
            found = call_outcome.look_up(
                caller, store.vault, self.call, self.arguments, asked_at=asked_at
            )
        except (ProviderError, OutOfBudget) as failed:
            write_error(f"the outcome is still unknown ({failed}); {self._how_to_check}")
            return
        except _RECORDING_ERRORS as failed:
            reason = type(failed).__name__
            write_error(f"the outcome is still unknown ({reason}); {self._how_to_check}")
            return
        if found.order is not None:
            show(found.order, None, self.output)
        if found.done:
            write_error(f"{self._name}: the order shows that the call succeeded")
            raise typer.Exit(0)
        if found.order is not None:
            write_error(
                f"{self._name}: above is the current state of the order; {self._how_to_check}"
            )
        for reported in found.new_orders:
            order = shlex.join([reported.order_id, "--provider", self.provider.name])
            write_error(f"a new order may come from this call: codecatch wait {order}")
        if found.order is None and not found.new_orders:
            write_error(f"no new order is listed; {self._how_to_check}")
