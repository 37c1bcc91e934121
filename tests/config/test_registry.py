from typing import Literal

import pytest
from pydantic import Field, ValidationError

from pipeline.config.registry import ADAPTERS, COMPRESSIONS, LOSSES, REGISTRIES, Method, Registry


class Shrink(Method):
    """Make it small.

    And more words.
    """

    by: int = Field(2, ge=1)
    how: Literal["quickly", "slowly"] = "slowly"


def registry() -> Registry:
    """A registry of one method; what its folder holds registers elsewhere."""
    own = Registry("shrinkage", "method", "pipeline.adapt.inits")
    own.register("shrink")(type("Shrink", (Shrink,), {"__doc__": Shrink.__doc__}))
    return own


def test_a_name_is_registered_once():
    own = registry()
    with pytest.raises(ValueError, match=r"shrinkage 'shrink' is registered twice: .*Shrink.* and .*Other"):
        own.register("shrink")(type("Other", (Shrink,), {}))
    assert own["shrink"].__name__ == "Shrink"


def test_an_unknown_name_is_answered_with_the_nearest_and_all_that_there_are():
    with pytest.raises(LookupError, match=r"unknown shrinkage 'shrnk'; did you mean 'shrink'\?; allowed: shrink"):
        registry()["shrnk"]
    with pytest.raises(LookupError, match="unknown shrinkage 'xyz'; allowed: shrink"):
        registry()["xyz"]


@pytest.mark.parametrize("given", ["shrink", {"method": "shrink"}, {"method": "shrink", "by": 2}])
def test_a_method_is_given_by_name_or_as_a_table(given):
    own = registry()
    method = own.parse(given)
    assert (method.by, method.how) == (2, "slowly")
    assert own.parse(method) is method


def test_a_method_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="give a name"):
        registry().parse(LOSSES.parse("cross-entropy"))


def test_a_narrowed_registry_names_those_methods_alone_that_it_accepts():
    own = registry()
    own.register("boil")(type("Boil", (Shrink,), {}))
    narrowed = own.narrowed("cold shrinkage", lambda method: method.name != "boil")
    assert [method.name for method in narrowed] == ["shrink"]
    assert narrowed.parse(own.parse("shrink")).name == "shrink"
    for refused in ("boil", {"method": "boil"}, own.parse("boil")):
        with pytest.raises(ValueError, match=r"; allowed: shrink$"):
            narrowed.parse(refused)
    assert own.parse("boil").name == "boil"
    with pytest.raises(LookupError, match="unknown cold shrinkage 'shrnk'; did you mean 'shrink'"):
        narrowed["shrnk"]


@pytest.mark.parametrize("given", [7, None, {}, {"by": 2}, {"method": 3}, ["shrink"]])
def test_what_names_no_method_is_refused_with_the_form_it_takes(given):
    with pytest.raises(ValueError, match='give a name, or a table with method = "<name>"'):
        registry().parse(given)


def test_all_wrong_options_are_named_at_once():
    with pytest.raises(ValidationError) as raised:
        registry().parse({"method": "shrink", "bye": 3, "by": 0, "how": "slowy"})
    said = {error["loc"]: error["msg"] for error in raised.value.errors()}
    assert said == {
        ("bye",): "unknown key; did you mean 'by'?; allowed: by, how",
        ("by",): "must be greater than or equal to 1",
        ("how",): "must be 'quickly' or 'slowly'; did you mean 'slowly'?",
    }


def test_a_method_writes_itself_as_the_table_it_is_read_from():
    own = registry()
    method = own.parse({"method": "shrink", "by": 5})
    table = method.model_dump(mode="json")
    assert table == {"method": "shrink", "by": 5, "how": "slowly"}
    assert own.parse(table) == method
    assert method.summary() == "Make it small."


def test_a_method_leaves_out_defaults_of_later_options_unless_it_is_written_completely():
    own = registry()
    own.register("melt")(type("Melt", (Shrink,), {"later": frozenset({"by"})}))
    assert own.parse("melt").model_dump(mode="json") == {"method": "melt", "how": "slowly"}
    table = own.parse("melt").complete()
    assert table == {"method": "melt", "by": 2, "how": "slowly"}
    assert own.parse(table) == own.parse("melt")


def test_options_inside_a_method_are_written_completely_with_it():
    codes = ADAPTERS.parse({"method": "codes", "adapter": "lora"})
    svd = COMPRESSIONS.parse({"method": "svd", "factors": "int1"})
    for whole, inner in ((codes, "adapter"), (svd, "factors")):
        table = whole.complete()
        assert table.keys() == {"method", *type(whole).model_fields}
        assert table[inner].keys() == {"method", *type(getattr(whole, inner)).model_fields}


def test_a_method_without_options_is_written_as_its_name_where_its_registry_says_so():
    own = Registry[Method]("wave", "method", "pipeline.adapt.inits", written_as_name=True)
    own.register("flat")(type("Flat", (Method,), {}))
    own.register("steep")(type("Steep", (Shrink,), {}))
    assert own.parse("flat").model_dump(mode="json") == "flat"
    assert own.parse("steep").model_dump(mode="json") == {"method": "steep", "by": 2, "how": "slowly"}


def test_a_table_that_names_no_method_means_the_default_where_there_is_one():
    own = Registry[Method]("shrinkage", "method", "pipeline.adapt.inits", default="shrink")
    own.register("shrink")(type("Own", (Shrink,), {}))
    assert own.parse({"by": 4}) == own.parse({"method": "shrink", "by": 4})


def test_a_method_does_not_change_once_it_is_made():
    with pytest.raises(ValidationError, match="frozen"):
        registry().parse("shrink").by = 3


def test_every_file_of_a_folder_is_found_at_the_first_look_up(tmp_path, monkeypatch):
    folder = tmp_path / "shrinkages"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from pipeline.config.registry import Registry\nOWN = Registry('shrinkage', 'method', 'shrinkages')\n"
    )
    for name in ("wash", "boil"):
        (folder / f"{name}.py").write_text(
            "from pipeline.config.registry import Method\nfrom shrinkages import OWN\n"
            f"@OWN.register('{name}')\nclass Own(Method):\n    pass\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import shrinkages

    assert [method.name for method in shrinkages.OWN] == ["boil", "wash"]
    assert shrinkages.OWN["wash"].__module__ == "shrinkages.wash"


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_method_has_a_summary_of_its_own_in_one_line(kind):
    registered = list(REGISTRIES[kind])
    assert [method.name for method in registered] == sorted({method.name for method in registered})
    for method in registered:
        assert vars(method).get("__doc__"), f"{method} has no docstring"
        assert 10 < len(method.summary()) < 120
