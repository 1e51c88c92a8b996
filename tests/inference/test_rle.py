import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from egeunet.inference.rle import decode, encode


def test_columns_come_first_as_in_coco():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert encode(mask) == {"size": [2, 3], "counts": [2, 3, 1]}
    assert encode(~mask) == {"size": [2, 3], "counts": [0, 2, 3, 1]}


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.booleans()))
def test_a_mask_comes_back(mask):
    assert (decode(encode(mask)) == mask).all()


def test_counts_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        decode({"size": [2, 2], "counts": [1, 2]})
