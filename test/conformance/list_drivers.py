"""Prints the drivers that the installed Jumpstarter packages declare, as JSON: {type string: package}.

Read from their sources, not imported: some packages' requirements contradict each other.
"""

import ast
import importlib.metadata
import json
import pathlib
import sys


def sources(distribution):
    for file in distribution.files or ():
        if file.suffix == ".py" and file.name not in ("conftest.py",) and not file.name.endswith("_test.py"):
            yield file


classes = {}
for distribution in importlib.metadata.distributions():
    name = distribution.metadata["Name"].replace("_", "-").lower()
    if not name.startswith("jumpstarter-driver-"):
        continue
    for file in sources(distribution):
        module = ".".join(file.with_suffix("").parts)
        tree = ast.parse(pathlib.Path(distribution.locate_file(file)).read_text())
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base).split(".")[-1] for base in node.bases]
                classes[f"{module}.{node.name}"] = (name, node.name, bases)

# Bases are found by their names: no two drivers share one that matters here.
by_name = {}
for _, name, bases in classes.values():
    by_name.setdefault(name, set()).update(bases)


def is_driver(name, seen=()):
    return name == "Driver" or any(is_driver(base, (*seen, name)) for base in by_name.get(name, ()) if base not in seen)


drivers = {
    path: package
    for path, (package, name, _) in classes.items()
    if not name.startswith("_") and is_driver(name)
}
json.dump(dict(sorted(drivers.items())), sys.stdout, indent=2)
