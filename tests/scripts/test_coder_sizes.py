import sys

import numpy as np
import pytest
from tiny_data import write_mnist

import coder_sizes
from bench.coding import CODERS
from pipeline.compress.symbol_model import packed


@pytest.mark.parametrize("coder", CODERS)
def test_a_coder_that_is_compared_gives_back_what_it_coded(coder):
    code, decode = CODERS[coder]
    symbols = np.random.default_rng(0).binomial(7, 0.2, (40, 30)).astype(np.uint8)
    back = decode(code(symbols, 3), symbols.shape, 3)
    assert (back if isinstance(back, bytes) else packed(back, 3)) == packed(symbols, 3)


def test_the_script_prints_the_bytes_of_every_coder_for_the_same_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["coder_sizes.py", "--data", str(write_mnist(tmp_path))])
    coder_sizes.main()
    head, _, *rows = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert head[:2] == ["codes", "packed"]
    assert [name.split(":")[0] for name in head[2:]] == list(CODERS)
    by_name = {name: sizes for name, *sizes in rows}
    assert by_name["`int1`, sign"][0] == "29,344"
    mask = [int(size.partition(";")[0].replace(",", "")) for size in by_name["`sparse`, `keep = 0.02`, mask_index"]]
    assert max(mask[1:]) < mask[0] / 4
