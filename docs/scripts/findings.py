"""Write the explained findings of outside tools into the page on security: `python docs/scripts/findings.py`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operate" / "security.md"
EXPLANATIONS = ROOT / "constructs" / "cdk_inference" / "common" / "explanations.toml"

_TABLE = re.compile(r"(<!-- findings -->\n\|.*\n\|.*\n)(?:\|.*\n)*")
_PACKS = {"AwsSolutions": "AwsSolutions", "HIPAA.Security": "HIPAA", "NIST.800.53.R5": "NIST", "PCI.DSS.321": "PCI"}


def written(page: str) -> str:
    """Return the page with its table as the explanations are now."""
    rows = [
        f"| {name.replace('-', ' ')} | {entry['reason']} | {_rules(entry['rules'])} |\n"
        for name, entry in tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8")).items()
    ]
    return _TABLE.sub(lambda match: match[1] + "".join(rows), page)


def _rules(rules: dict[str, list[str]]) -> str:
    """Name the rules of each tool; several packs of cdk-nag have the same rule."""
    parts = []
    for tool, names in rules.items():
        if tool != "cdk-nag":
            parts.append(f"{tool}: {', '.join(f'`{name}`' for name in names)}")
            continue
        packs: dict[str, list[str]] = {}
        for name in names:
            pack, _, rule = name.partition("-")
            packs.setdefault(rule, []).append(_PACKS.get(pack, pack))
        named = [f"`{rule}` ({', '.join(those)})" for rule, those in packs.items()]
        parts.append(f"cdk-nag: {', '.join(named)}")
    return "; ".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
