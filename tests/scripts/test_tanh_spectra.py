import sys

import tanh_spectra


def test_the_script_writes_one_page_and_prints_the_effective_ranks(tmp_path, monkeypatch, capsys):
    page = tmp_path / "deep" / "page.html"
    monkeypatch.setattr(sys, "argv", ["tanh_spectra.py", "--epochs", "2", "--out", str(page)])
    tanh_spectra.main()
    head, *layers, loss, where = capsys.readouterr().out.splitlines()
    assert head == "layer  effective rank at epoch 0  at epoch 2"
    assert [line.split()[0] for line in layers] == ["A1", "A2", "A3"]
    assert all(1 < float(number) <= 64 for line in layers for number in line.split()[1:])
    assert loss.startswith("mean squared error")
    assert where == str(page)
    text = page.read_text()
    assert '"frames":[{' in text.replace(" ", "")
    assert text.count("plotly.js v") == 1
