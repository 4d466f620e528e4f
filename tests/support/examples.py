"""How many examples Hypothesis tries where each costs a database."""

from hypothesis import settings

NIGHTLY = "nightly"


def register_profiles() -> None:
    """Let `pytest --hypothesis-profile nightly --timeout 7200` try thousands."""
    settings.register_profile(NIGHTLY, max_examples=2_000, deadline=None, print_blob=True)


def examples(by_default: int) -> int:
    """Return what the nightly profile says where it is chosen, else `by_default`."""
    nightly = settings.get_current_profile_name() == NIGHTLY
    return settings().max_examples if nightly else by_default
