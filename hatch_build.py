"""Adds the repository's address to the metadata of a release, which only the machine that builds it knows."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class AddressHook(MetadataHookInterface):
    """Reads ``REPOSITORY_URL``, such as ``https://github.com/OWNER/NAME``; without it, there are no addresses.

    PyPI shows the README without the repository around it, so its links get the address, too.
    """

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README and the addresses."""
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        if url := os.environ.get("REPOSITORY_URL"):
            tag = f"v{metadata['version']}"
            readme = re.sub(r"!(\[[^]]*\])\((?!\w+:)", rf"!\1({url}/raw/{tag}/", readme)
            readme = re.sub(r"(?<!!)(\[[^]]*\])\((?!\w+:)", rf"\1({url}/blob/{tag}/", readme)
            metadata["urls"] = {
                "Source": url,
                "Documentation": f"{url}/blob/{tag}/docs/README.md",
                "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
                "Issues": f"{url}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
