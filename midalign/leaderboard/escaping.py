"""Foreign text in each output format: names, notes and recipes come from other people's records.

HTML is escaped by jinja2 and by the page's scripts, which only set text content.
"""

import json
import re
from typing import Any

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|$#~])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


def script_json(value: Any) -> str:
    """Return a value as JSON that is safe inside a script file and a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
