"""Results as tables of pandas, for notebooks."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from kdcore.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def frame(records: Iterable[Mapping[str, object]]) -> "pd.DataFrame":
    """Return records as a table, a row each.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise UserError('to_pandas() needs pandas: pip install "kdcore[pandas]"') from None
    return pd.DataFrame.from_records(list(records))
