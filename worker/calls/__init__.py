"""Provider calls made by a person: debited, made, recorded, and looked up if unclear."""

__all__ = ["caller", "outcome", "record"]
