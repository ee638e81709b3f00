"""Libraries that jloss can do without: imported when first used, missing with a cure."""

import importlib
from types import ModuleType

_USES = {
    "matplotlib": "plotting",
    "plotly": "plotting",
    "pyevtk": "a file for ParaView",
    "trimesh": "a glTF file",
    "tqdm": "a progress bar",
    "orbax": "a checkpoint",
    "sklearn": "a built-in data set",
    "pandas": "reading a table",
    "pyarrow": "reading a parquet file",
    "mpmath": "a check",
    "tensorboardX": "a log for TensorBoard",
    "xarray": "to_xarray",
}


def optional(module: str, extra: str) -> ModuleType:
    """The module of that name, or an error that says how to install it.

    Args:
      module: what to import, as in ``"matplotlib.figure"``.
      extra: the extra of jloss that installs it, as in ``"plot"``.

    Returns:
      The imported module.

    Raises:
      ImportError: it is not installed.

    >>> from jloss._optional import optional
    >>> optional("matplotlib", "plot").__name__
    'matplotlib'
    """
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A library that is there, but lacks something of its own, has a different cure.
        if (error.name or "").partition(".")[0] != library:
            raise
        use = _USES.get(library, "this")
        raise ImportError(f'{use} needs {library}: pip install "jloss[{extra}]"') from error
