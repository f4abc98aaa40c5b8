"""Writes the golden files anew, from one provider."""

import json
import sys
from pathlib import Path

from anykms.registry import open_provider
from anykms_contract.golden import ARTEFACTS, observed
from anykms_contract.harness import Harness

with Harness(open_provider=lambda: open_provider(sys.argv[1], create=True)) as store:
    for artefact in ARTEFACTS:
        text = json.dumps(observed(artefact, store), indent=2, sort_keys=True)
        Path(__file__).with_name(f"{artefact}.json").write_text(f"{text}\n", encoding="utf-8")
