"""Parses the .tf files of a folder with python-hcl2, and looks whether what they name is declared, and what is declared is used.

Usage: references.py FOLDER. It prints what is wrong, one line each, and ends with 1 where anything is.
"""

import re
import sys
from pathlib import Path

import hcl2


def texts(value):
    """Every expression of a parsed file, as text."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield str(key)
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    else:
        yield str(value)


def names(blocks):
    return {name.strip('"') for block in blocks for name in block if not name.startswith("__")}


def check(folder):
    declared = {"var": set(), "local": set(), "module": set(), "aws": set()}
    used = {"var": set(), "local": set(), "module": set(), "aws": set()}
    for path in sorted(folder.glob("*.tf")):
        try:
            parsed = hcl2.loads(path.read_text())
        except Exception as error:  # Each parser's own kind.
            yield f"{path}: python-hcl2 cannot parse it: {error}"
            continue
        declared["var"] |= names(parsed.get("variable", []))
        declared["module"] |= names(parsed.get("module", []))
        for block in parsed.get("locals", []):
            declared["local"] |= {name for name in block if not name.startswith("__")}
        for kind, before in (("resource", ""), ("data", "data.")):
            for block in parsed.get(kind, []):
                for of, inner in block.items():
                    if not of.startswith("__"):
                        declared["aws"] |= {f"{before}{of}.{name}".replace('"', "") for name in inner if not name.startswith("__")}
        for text in texts(parsed):
            for kind in ("var", "local", "module"):
                used[kind] |= set(re.findall(rf"\b{kind}\.(\w+)", text))
            used["aws"] |= {f"{before}{rest}" for before, rest in re.findall(r"(?<![\w.])(data\.)?(aws_\w+\.\w+)", text)}
    for kind, prefix in (("var", "var."), ("local", "local."), ("module", "module."), ("aws", "")):
        for name in sorted(used[kind] - declared[kind]):
            yield f"{folder}: {prefix}{name} is named and not declared"
        if kind in ("var", "local"):
            for name in sorted(declared[kind] - used[kind]):
                yield f"{folder}: {prefix}{name} is declared and not used"


FAULTS = [fault for below in sys.argv[1:] for fault in check(Path(below))]
print("\n".join(FAULTS))
sys.exit(1 if FAULTS else 0)
