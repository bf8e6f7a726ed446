"""Find the data that is shipped: boards, calibration sets and the zoo, in a checkout or in a wheel."""

from pathlib import Path

from edgeqrl.errors import MissingToolError, require_name

_PACKAGE = Path(__file__).resolve().parent
_KINDS = ("boards", "calib_data", "zoo")


def data_folder(kind: str) -> Path:
    """Return the folder of `kind`: "boards", "calib_data" or "zoo".

    In a wheel all three lie inside the package. In a checkout boards and calib_data lie beside the
    package. Raises MissingToolError if the installation lacks it.
    """
    require_name("kind of data", kind, _KINDS)
    for folder in (_PACKAGE / kind, _PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise MissingToolError(
        f"This installation of edgeqrl has no folder '{kind}'; install it again with `pip install edgeqrl`."
    )
