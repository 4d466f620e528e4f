"""Provider calls that a person makes: paid, made, recorded, and looked at when unclear."""

__all__ = ["caller", "outcome", "record"]
