"""Give ranks to tensors: as many of the largest singular values per byte as a file can hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


def ranks_for(squares: Mapping[str, npt.NDArray[np.float64]], units: Mapping[str, int], room: int) -> dict[str, int]:
    """Return the rank of each tensor that lets the adapter keep most of the squared norm in `room` numbers.

    `squares` has, by tensor, the squared singular values in falling order (of stacked matrices: their sums), `units`
    the numbers that one rank takes. Ranks are taken by falling square per number until the next one does not fit; so a
    tensor whose values are small may get none.
    """
    names = list(squares)
    gains = np.concatenate([np.zeros(0), *(squares[name] / units[name] for name in names)])
    owners = np.concatenate([np.zeros(0, np.int64), *(np.full(len(squares[n]), i) for i, n in enumerate(names))])
    order = np.argsort(-gains, kind="stable")  # stable: of equal gains of one tensor, the first ranks come first
    taken = np.cumsum(np.array([units[name] for name in names], np.int64)[owners[order]]) <= room
    counts = np.bincount(owners[order[taken]], minlength=len(names))
    return {name: int(n) for name, n in zip(names, counts, strict=True)}
