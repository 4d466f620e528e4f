"""The public HTTP side, and the only place in the receiver that knows Starlette."""
