"""The providers, simulated: both REST APIs and the webhooks, on this machine and without money.

State (:mod:`.virtualsms`, :mod:`.daisysim`), HTTP (``*_api``) and the sending of webhooks
(:mod:`.webhooks`) know each other by calls only; :class:`.server.Upstream` puts them together.
Where the providers' documents are silent, a module says what was chosen.
"""
