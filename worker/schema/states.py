"""Values of the tables' state, kind and action columns.

They are stored data: new values may be added, but existing ones must not change.
"""

from __future__ import annotations

from typing import Final

# Order.status, from the lowest rank to the highest. A code that arrives after a cancellation still
# counts, so ``received`` outranks ``cancelled``.
CREATED: Final = "created"
WAITING: Final = "waiting"
EXPIRED: Final = "expired"
CANCELLED: Final = "cancelled"
RECEIVED: Final = "received"
CONFIRMED: Final = "confirmed"
# From the lowest rank to the highest: the position of a state is its rank.
ORDER_STATES: Final = (CREATED, WAITING, EXPIRED, CANCELLED, RECEIVED, CONFIRMED)
# Orders that may still receive a code.
OPEN_STATES: Final = frozenset({CREATED, WAITING})
# Orders that received a code.
CODE_STATES: Final = frozenset({RECEIVED, CONFIRMED})
# Orders that ended without a code: refunded or never charged.
UNPAID_ENDS: Final = frozenset({CANCELLED, EXPIRED})

# Code.state
HELD: Final = "held"  # waits for the provider to verify the code
READY: Final = "ready"
CODE_QUARANTINED: Final = "quarantined"
DISCARDED: Final = "discarded"
# A message in which no code was recognised: its text is delivered, and a person may set the code.
UNRECOGNISED: Final = "unrecognised"

# Confirmation.state and Delivery.state
PENDING: Final = "pending"
SENDING: Final = "sending"
DONE: Final = "done"
DEAD: Final = "dead"
UNKNOWN: Final = "unknown"
# Delivery.state alone: another destination has a delivery in its place.
DIVERTED: Final = "diverted"

# Confirmation.action
CONFIRM: Final = "confirm"
VERIFY: Final = "verify"

# Delivery.type of a notice to the operators; all other deliveries have an event type.
OPERATORS: Final = "operators"

# Reconciliation.action
ORDER: Final = "order"
HISTORY: Final = "history"
SUBSCRIPTIONS: Final = "subscriptions"
