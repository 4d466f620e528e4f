"""Coverage-guided fuzzing of all parsers of untrusted input; run by hand.

``pip install atheris``, then ``python -m tests.receiver.fuzz_readers -max_total_time=60``. It
starts with the bodies of ``tests/samples/hostile``. A crash is any exception but the two that mean
"refused"; its input is saved in the current directory, and should be added to the samples.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["receiver"]):
    from receiver.errors import InvalidSignature, MalformedPayload
    from receiver.providers import signature_hints, signatures
    from receiver.providers.registry import registry
    from receiver.providers.strict_json import parse_object

SAMPLES = Path(__file__).parents[1] / "samples" / "hostile" / "bodies"
DIGEST = b"0" * 64


def read(data: bytes) -> None:
    """Parse ``data`` with every parser."""
    with suppress(InvalidSignature):
        signatures.verify(data, [data[:80]], [b"secret"])
    signature_hints.explain(data, [DIGEST], [b"whsec_c2VjcmV0", data[:40]], "SECRETS")
    try:
        payload = parse_object(data)
    except MalformedPayload:
        return
    for provider in registry().values():
        provider.is_test(payload)
        provider.event_key(payload)
        provider.may_recur(payload)
        try:
            provider.read(payload)
        except MalformedPayload:
            continue


def main() -> None:
    """Fuzz until stopped; the corpus grows in a temporary directory."""
    with tempfile.TemporaryDirectory() as found:
        atheris.Setup([*sys.argv, found, str(SAMPLES)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
