"""The words that stand in the tables' columns.

They are part of the stored data: a word may be added, but none may change.
"""

from __future__ import annotations

from typing import Final

# Order.status, from the lowest rank to the highest: a code that comes after a cancellation still
# counts, so ``received`` outranks ``cancelled``.
CREATED: Final = "created"
WAITING: Final = "waiting"
EXPIRED: Final = "expired"
CANCELLED: Final = "cancelled"
RECEIVED: Final = "received"
CONFIRMED: Final = "confirmed"
ORDER_STATES: Final = (CREATED, WAITING, EXPIRED, CANCELLED, RECEIVED, CONFIRMED)
# Orders in one of these may still get a code.
OPEN_STATES: Final = frozenset({CREATED, WAITING})
# Orders in one of these got a code.
CODE_STATES: Final = frozenset({RECEIVED, CONFIRMED})
# Orders that ended like this were refunded or never charged.
UNPAID_ENDS: Final = frozenset({CANCELLED, EXPIRED})

# Code.state
HELD: Final = "held"  # the provider has not yet said that the code is its own
READY: Final = "ready"
CODE_QUARANTINED: Final = "quarantined"
DISCARDED: Final = "discarded"

# Confirmation.state and Delivery.state
PENDING: Final = "pending"
SENDING: Final = "sending"
DONE: Final = "done"
DEAD: Final = "dead"
UNKNOWN: Final = "unknown"

# Confirmation.action
CONFIRM: Final = "confirm"
VERIFY: Final = "verify"

# Delivery.type of a notice to the operators; other deliveries have an event type.
OPERATORS: Final = "operators"

# Reconciliation.action
ORDER: Final = "order"
HISTORY: Final = "history"
SUBSCRIPTIONS: Final = "subscriptions"
