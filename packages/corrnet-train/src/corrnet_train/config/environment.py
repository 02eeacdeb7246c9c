"""Settings from the environment, as schedulers and containers give them: CORRNET_OPTIM__LR=0.05 is optim.lr=0.05."""

import difflib
from collections.abc import Mapping

from corrnet_train.config.load import settings
from corrnet_train.config.recipes import ConfigError

_PREFIX, _BETWEEN = "CORRNET_", "__"
_OPTIONS = ("model.options.", "model.correlation.")  # of which there is no list: each model has its own


def environment_overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `section.key=value` for each variable that is a setting.

    Names are those of pydantic-settings: the prefix CORRNET_, and two underscores between section and key, as in
    CORRNET_DATA__CLIP__FPS. Values are read as on the command line, whose settings win over these.

    Args:
        environ: The environment. Variables that begin otherwise, and such as CORRNET_HOME, are not looked at.

    Raises:
        ConfigError: A variable names a section and no setting; the message has the nearest one.
    """
    known = settings()
    sections = {key.partition(".")[0] for key in known}
    found = {}
    for name in sorted(name for name in environ if name.startswith(_PREFIX)):
        key = name.removeprefix(_PREFIX).lower().replace(_BETWEEN, ".")
        single = next(
            (k for k in known if k.replace(".", "_") == key), None
        )  # one underscore in the place of two
        if key in known or key.startswith(_OPTIONS):
            found[name] = f"{key}={environ[name]}"
        elif single is not None or ("." in key and key.partition(".")[0] in sections):
            (nearest,) = [single] if single else difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            wanted = _PREFIX + nearest.replace(".", _BETWEEN).upper()
            raise ConfigError(
                f"the environment has {name}, which is no setting: did you mean {wanted} ({nearest})?"
            )
    return found
