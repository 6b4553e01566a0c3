"""What these programs need besides Python's own: imported before it, so that one line says what to install."""
import importlib.util
import sys


def need(*names):
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"{sys.argv[0]}: needs {', '.join(missing)}: pip install {' '.join(missing)}, see tests/compare/README.md")


need("torch", "numpy", "safetensors")
