import asyncio
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import coterie.config
from coterie.answers import number
from coterie.config import Config, make_composition, read_config
from coterie.errors import ConfigError
from coterie.experts.base import Price
from coterie.experts.function import FunctionExpert
from coterie.experts.modes import ModeExpert
from coterie.policies import Recruit, Utility
from coterie.pool import Pool
from coterie.residency import LRU, LookAhead
from coterie.runs import describe
from coterie.testing import DECISION, converse
from coterie.types import Completion, Query

ONE = """
[pool]
name = "mine"
[[expert]]
name = "small"
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
model = "small-7b"
"""
PLUGIN = """
from coterie.experts.base import Expert, Price
from coterie.types import Completion

class Echo(Expert):
    def __init__(self, name, **settings):
        self.name, self.settings, self.price = name, settings, Price(5.0, 5.0)

    async def complete(self, call):
        return Completion(self.name, str(self.settings))

def strict(name, shout):
    return Echo(name, shout=shout)

def not_an_expert(name):
    return name.upper()

constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of experts, forgotten by the importer afterwards."""
    (tmp_path / "my_experts.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_experts", None)


def config(folder: Path, text: str) -> Config:
    (folder / "coterie.toml").write_text(text)
    return read_config(folder / "coterie.toml")


def refused(folder: Path, text: str) -> ConfigError:
    """The error that reading and making everything ends in."""

    def make_everything() -> None:
        made = config(folder, text)
        made.policy()
        made.composition(made.pool())

    with pytest.raises(ConfigError) as caught:
        make_everything()
    assert "coterie.toml" in str(caught.value.path)
    return caught.value


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    made = config(tmp_path, ONE)
    pool = made.pool()
    assert (pool.name, list(pool.experts), pool.extract) == ("mine", ["small"], "whole")
    assert made.policy() == Recruit()
    assert made.router_path() is None


def test_every_table_arrives(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        ONE.replace('"mine"', '"mine"\nextract = "number"\ncapacity = 3\noptions = {max_tokens=9}')
        + "price = { prompt = 2, completion = 0.5 }\nparameters = 7\nsample = 4\n"
        + '[router]\npath = "r"\n[policy]\nname = "utility"\nwillingness_to_pay = 3.0\n',
    )
    pool = made.pool()
    assert (pool.extract, pool.capacity, dict(pool.options)) == ("number", 3, {"max_tokens": 9})
    assert (dict(pool.parameters), dict(pool.samples)) == ({"small": 7}, {"small": 4})
    assert pool.experts["small"].price == Price(2e-6, 0.5e-6)
    assert made.policy() == Utility(3.0)
    assert made.router_path() == tmp_path / "r"


def test_parameters_may_stand_for_the_price(tmp_path: Path) -> None:
    by_size = ONE.replace('"mine"', '"mine"\ncost = "parameters"')
    pool = config(tmp_path, by_size + "parameters = 7_000_000_000\n").pool()
    assert pool.experts["small"].price == Price(7.0, 7.0)
    assert pool.unit == "G parameter-tokens"
    error = refused(tmp_path, by_size)
    assert error.field == "expert small: parameters"


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ('name = "mine"', 'nam = "mine"', "pool.name", "the key is missing"),
        ('name = "mine"', 'name = "mine"\nextrat = "number"', "pool.extrat", "mean 'extract'?"),
        ('name = "mine"', 'name = "mine"\nzzz = 1', "pool.zzz", "known: name, extract, cost"),
        ("[pool]", "[poool]", "pool", "the key is missing"),
        ("[pool]", "polcy = 1\n[pool]", "polcy", "did you mean 'policy'?"),
        ('name = "mine"', "name = 3", "pool.name", "valid string, got '3'"),
        ('name = "mine"', 'name = "mine"\nextract = "x"', "pool.extract", "'whole', 'arrow'"),
        ('name = "mine"', 'name = "mine"\ncapacity = 0', "pool.capacity", "greater than or equal"),
        ('name = "mine"', 'name = "mine"\ncapacity = "2"', "pool.capacity", "valid integer"),
        ('name = "small"', 'name = ""', "expert.0.name", "at least 1 character"),
        ('kind = "openai"', "", "expert.0.kind", "the key is missing"),
        ('kind = "openai"', 'kind = "opnai"', "expert small", "did you mean 'openai'"),
        ('kind = "openai"', 'kind = "no_module:X"', "expert small", "no module 'no_module'"),
        ("base_url", "base_ulr", "expert small: base_ulr", "did you mean 'base_url'?"),
        ('model = "small-7b"', "", "expert small: model", "the key is missing"),
        ("base_url", "pric = 1\nbase_url", "expert small: pric", "did you mean 'price'?"),
        ("base_url", "parametres = 1\nbase_url", "expert small: parametres", "'parameters'?"),
        ("base_url", "parameters = 0\nbase_url", "expert.0.parameters", "greater than 0"),
        ("base_url", "parameters = 7e9\nbase_url", "expert.0.parameters", "valid integer"),
        ("base_url", "optional = 1\nbase_url", "expert.0.optional", "valid boolean"),
        ("base_url", "price = 3\nbase_url", "expert.0.price", "valid dictionary"),
        ("base_url", "price={promt=1}\nbase_url", "expert.0.price.prompt", "is missing"),
        (
            "base_url",
            "price={prompt=1,completion=1,promt=1}\nbase_url",
            "expert.0.price.promt",
            "did you mean 'prompt'?",
        ),
        (
            "base_url",
            "price={prompt=-1,completion=1}\nbase_url",
            "expert.0.price.prompt",
            "greater than or equal to 0",
        ),
        (
            "base_url",
            "price={prompt=1,completion=inf}\nbase_url",
            "expert.0.price.completion",
            "finite number",
        ),
        (
            'kind = "openai"',
            'kind = "local"\npath = "package:no_such.thing/x"',
            "expert small: path",
            "is in a package that is not installed",
        ),
        ("[[expert]]", "[expert]", "expert", "valid list"),
        (
            'name = "mine"',
            'name = "mine"\nmemory = "4 GB"\ncapacity = 2',
            "pool.capacity",
            "both capacity (a number of experts) and memory (bytes) are given; keep one",
        ),
        ('name = "mine"', 'name = "mine"\nmemory = "lots"', "pool.memory", '"14 GB"'),
        ('name = "mine"', 'name = "mine"\nmemory = 0', "pool.memory", "bytes above 0"),
        (
            'name = "mine"',
            'name = "mine"\nmemory = 9\nhost_memory = -1',
            "pool.host_memory",
            "got -1",
        ),
        ('name = "mine"', 'name = "mine"\nhost_memory = 9', "pool.host_memory", "needs memory"),
        ('name = "mine"', 'name = "mine"\neviction = "lri"', "pool.eviction", "'lru'"),
        (
            'kind = "openai"',
            'kind = "vllm"\nmemory = "14 G"',
            "expert small",
            "'memory': expected bytes above 0",
        ),
        ('kind = "openai"', 'kind = "vllm"', "expert small: memory", "the key is missing"),
        (
            'kind = "openai"',
            'kind = "openai"\nrequests_per_minute = 0',
            "expert small",
            "'requests_per_minute': expected a whole number",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named_with_a_remedy(
    tmp_path: Path, old: str, new: str, field: str, message: str
) -> None:
    error = refused(tmp_path, ONE.replace(old, new))
    assert error.field == field
    assert message in str(error)


@pytest.mark.parametrize(
    ("tail", "field", "message"),
    [
        ('[policy]\nname = "recriut"', "policy", "no policy called 'recriut'; did you mean"),
        ("[policy]\nkk = 3", "policy: kk", "unknown key; did you mean 'k'?"),
        ("[policy]\nk = 0", "policy", "'k': expected a whole number of at least 1, got 0"),
        ('[policy]\nk = "3"', "policy", "whole number"),
        ('[policy]\ntemperature = "hot"', "policy", "'>' not supported"),
        ('[policy]\nname = "utility"\nwillingness_to_pay = -1', "policy", "at least 0"),
        ('[policy]\ncomposition = "recrut"', "composition", "did you mean 'recruit'"),
        ('[composition]\nname = "single"', "composition.name", "policy 'recruit' decides for"),
        (
            '[policy]\nname = "utility"\ncomposition = "cascade"',
            "composition.threshold",
            "cascade needs one",
        ),
        ('[composition]\nagregator = "x"', "composition.agregator", "mean 'aggregator'?"),
        (
            '[policy]\nname = "utility"\n[composition]\naggregator = "majority"',
            "composition: aggregator",
            "'single' merges nothing",
        ),
        ('[composition]\naggregator = "wieghted"', "aggregator wieghted", "mean 'weighted'"),
        (
            '[composition]\naggregator = "weighted"\naggregator_settings = {choice = 4}',
            "aggregator weighted: choice",
            "did you mean 'choices'?",
        ),
        (
            '[composition]\naggregator = "weighted"\naggregator_settings = {choices = 1}',
            "aggregator weighted",
            "expected at least 2",
        ),
        (
            '[composition]\naggregator = "majority"\naggregator_settings = {extract = "box"}',
            "aggregator majority",
            "no extractor called 'box'",
        ),
        ('[composition]\naggregator = "expert"', "aggregator expert: expert", "is missing"),
        (
            '[composition]\naggregator = "expert"\naggregator_settings = {expert = "zoe"}',
            "aggregator expert: expert",
            "no expert 'zoe' in the pool; there are small",
        ),
        ("[router]\nkind = 'x'", "router.path", "the key is missing"),
    ],
)
def test_a_wrong_policy_or_composition_is_named(
    tmp_path: Path, tail: str, field: str, message: str
) -> None:
    error = refused(tmp_path, f"{ONE}{tail}\n")
    assert error.field == field
    assert message in str(error)


def test_two_experts_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = ONE + ONE[ONE.index("[[expert]]") :]
    assert "two experts are called 'small'; names must differ" in str(refused(tmp_path, twice))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the key is missing"),
        (b"not toml at all", "not TOML: "),
        (b"[pool\n", "not TOML: "),
        (b"x = " + b"[" * 100_000, "not TOML: "),
        (b'[pool]\nname = "caf\xe9"\n', "not UTF-8; save the file as UTF-8"),
        (b"\xff\xfe[\x00p\x00", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "coterie.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"coterie.toml.*{message}"):
        read_config(tmp_path / "coterie.toml")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "coterie.toml").write_bytes(b"\xef\xbb\xbf" + ONE.encode())
    assert read_config(tmp_path / "coterie.toml").settings.pool.name == "mine"


@pytest.mark.parametrize(("name", "reason"), [("nowhere.toml", "No such file"), (".", "Is a dir")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be read: {reason}"):
        read_config(tmp_path / name)


OPTIONAL = """
[[expert]]
name = "rare"
kind = "local"
path = "{path}"
optional = true
"""


@pytest.mark.parametrize(
    "path", ["nowhere.gguf", "package:no_such_package/x.gguf", "package:no_such.deep/x.gguf"]
)
def test_an_optional_expert_that_is_not_installed_is_left_out(tmp_path: Path, path: str) -> None:
    made = config(tmp_path, ONE + OPTIONAL.format(path=path))
    assert list(made.pool().experts) == ["small"]
    assert made.left_out() == ["rare"]


def test_an_optional_expert_that_is_installed_is_there(tmp_path: Path) -> None:
    (tmp_path / "here.gguf").write_bytes(b"weights")
    made = config(tmp_path, ONE + OPTIONAL.format(path="here.gguf"))
    assert list(made.pool().experts) == ["small", "rare"]
    assert made.left_out() == []


def test_a_pool_with_nobody_in_it_is_refused(tmp_path: Path) -> None:
    nobody = '[pool]\nname = "mine"\n' + OPTIONAL.format(path="nowhere.gguf")
    assert "every expert is optional and none is installed" in str(refused(tmp_path, nobody))


def test_memory_is_given_in_bytes_or_as_text(tmp_path: Path) -> None:
    sized = '"mine"\nmemory = "4 GB"\nhost_memory = 16000\neviction = "lru"'
    pool = config(tmp_path, ONE.replace('"mine"', sized)).pool()
    assert (pool.memory, pool.host_memory, pool.rule) == (4 * 10**9, 16_000, LRU())
    counted = config(tmp_path, ONE).pool()
    assert (counted.capacity, counted.memory, counted.host_memory) == (1, None, 0)
    assert counted.rule == LookAhead()


MODE = """
[[expert]]
name = "{name}"
kind = "mode"
backend = "{backend}"
system = "Think."
options = {{ reasoning_effort = "high" }}
samples = 3
"""


def test_a_mode_shares_its_backend_wherever_it_stands_in_the_file(tmp_path: Path) -> None:
    pool_table, expert = ONE[: ONE.index("[[expert]]")], ONE[ONE.index("[[expert]]") :]
    numbers = pool_table.replace('"mine"', '"mine"\nextract = "number"')
    priced = expert + "price = { prompt = 1, completion = 2 }\nparameters = 7\nsample = 4\n"
    pool = config(tmp_path, numbers + MODE.format(name="deep", backend="small") + priced).pool()
    deep, small = pool.experts["deep"], pool.experts["small"]
    assert list(pool.experts) == ["deep", "small"]
    assert isinstance(deep, ModeExpert)
    assert (deep.expert, deep.backend, deep.price) == (small, "small", Price(1e-6, 2e-6))
    assert (deep.extract, deep.samples, deep.system) == (number, 3, "Think.")
    assert (pool.parameters["deep"], pool.samples["deep"]) == (7, 4)


def test_a_mode_may_have_its_own_price(tmp_path: Path) -> None:
    mode = MODE.format(name="deep", backend="small")
    own = config(tmp_path, ONE + mode + "price = { prompt = 3, completion = 3 }\n").pool()
    assert own.experts["deep"].price == Price(3e-6, 3e-6)
    by_size = ONE.replace('"mine"', '"mine"\ncost = "parameters"') + "parameters = 7_000_000_000\n"
    assert config(tmp_path, by_size + mode).pool().experts["deep"].price == Price(7.0, 7.0)


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ('"small"', '"smal"', "expert deep: backend", "did you mean 'small'?"),
        ('"small"', '"zoe"', "expert deep: backend", "got 'zoe'; known: small"),
        ('"small"', '"deep"', "expert deep: backend", "no mode itself, got 'deep'; known: small"),
        ('"small"', "3", "expert deep: backend", "got 3; known: small"),
        ('backend = "small"', "", "expert deep: backend", "the key is missing"),
        ("samples = 3", "samples = 0", "expert deep", "'samples': expected a whole number"),
        ("samples", "sampels", "expert deep: sampels", "did you mean 'samples'?"),
        ("samples = 3", 'extract = "box"', "expert deep", "no extractor called 'box'"),
    ],
)
def test_a_mode_that_makes_no_sense_is_refused(
    tmp_path: Path, old: str, new: str, field: str, message: str
) -> None:
    error = refused(tmp_path, ONE + MODE.format(name="deep", backend="small").replace(old, new))
    assert error.field == field
    assert message in str(error)


def test_a_mode_of_a_mode_is_refused(tmp_path: Path) -> None:
    modes = MODE.format(name="deep", backend="small") + MODE.format(name="deeper", backend="deep")
    assert "no mode itself, got 'deep'; known: small" in str(refused(tmp_path, ONE + modes))


def test_a_mode_of_an_expert_that_is_left_out_is_left_out_too(tmp_path: Path) -> None:
    rare = OPTIONAL.format(path="nowhere.gguf")
    made = config(tmp_path, ONE + rare + MODE.format(name="deep", backend="rare"))
    assert list(made.pool().experts) == ["small"]
    assert made.left_out() == ["rare", "deep"]


def test_the_example_in_the_documentation_reads(tmp_path: Path) -> None:
    text = textwrap.dedent(str(coterie.config.__doc__).split("::\n", 1)[1])
    pool = config(tmp_path, text).pool()
    assert (pool.memory, pool.experts["small-thinking"].backend) == (24 * 10**9, "small")


def mine(kind: str, *more: str) -> str:
    return "\n".join(['[pool]\nname="m"\n[[expert]]\nname = "echo"', f'kind = "{kind}"', *more])


def test_module_and_attribute_are_accepted_from_the_users_own_file(here: Path) -> None:
    pool = config(here, mine("my_experts:Echo", "volume = 11")).pool()
    call = DECISION  # any value will do: Echo answers with its settings
    completion = asyncio.run(pool.experts["echo"].complete(call))  # type: ignore[arg-type]
    assert completion == Completion("echo", "{'volume': 11}")


def test_an_expert_keeps_its_own_price_where_the_file_gives_none(here: Path) -> None:
    own = config(here, mine("my_experts:Echo")).pool()
    given = config(here, mine("my_experts:Echo", "price = {prompt = 1, completion = 1}")).pool()
    assert own.experts["echo"].price == Price(5.0, 5.0)
    assert given.experts["echo"].price == Price(1e-6, 1e-6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("my_experts:strict", "field 'expert echo: shout': the key is missing"),
        ("my_experts:not_an_expert", "makes str, expected an Expert"),
        ("my_experts:constant", "3 cannot be called with settings"),
        ("my_experts:Nobody", "has no 'Nobody'"),
    ],
)
def test_what_is_no_expert_is_refused(here: Path, kind: str, message: str) -> None:
    assert message in str(refused(here, mine(kind)))


def trio() -> Pool:
    names = ("sums", "sorting", "reversal")
    experts = {name: FunctionExpert(name, lambda call: "95") for name in names}
    return Pool("trio", experts, extract="number")


@pytest.mark.parametrize("aggregator", [None, "majority", "weighted"])
def test_votes_are_counted_on_the_answers_that_the_pool_extracts(aggregator: str | None) -> None:
    texts = {"sums": "I say 94", "sorting": "it must be 95", "reversal": "surely 95"}
    composition = make_composition(trio(), "recruit", aggregator)
    _, answer = converse(
        composition,
        lambda call: Completion(call.expert, texts[call.expert]),
        decision=replace(DECISION, weights=(0.6, 0.6, 0.6)),
        query=Query.from_text("q", "37 + 58"),
    )
    assert answer.expert in ("sorting", "reversal")


def test_an_extractor_may_be_named_in_the_settings() -> None:
    composition = make_composition(trio(), "recruit", "majority", {"extract": "whole"})
    texts = {"sums": "I say 94", "sorting": "it must be 95", "reversal": "surely 95"}
    _, answer = converse(composition, lambda call: Completion(call.expert, texts[call.expert]))
    assert answer.expert == "sums"


def test_settings_of_a_composition_are_checked_and_read_answers_as_the_pool_does() -> None:
    gated = make_composition(trio(), "cascade-consistent", own={"agreement": 0.5})
    assert (gated.agreement, gated.extract) == (0.5, number)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"settings: agreemnt.*'agreement'"):
        make_composition(trio(), "cascade-consistent", own={"agreemnt": 0.5})
    with pytest.raises(ConfigError, match="'agreement': expected at least 0 and at most"):
        make_composition(trio(), "cascade-consistent", own={"agreement": 2})
    with pytest.raises(ConfigError, match="unknown key"):
        make_composition(trio(), "single", own={"query": 1})


def test_a_file_sets_policy_and_composition(here: Path) -> None:
    text = """
[policy]
name = "chain"
composition = "cascade-unsure"
experts = ["small"]
[composition.settings]
threshold = -0.25
"""
    made = config(here, ONE + text)
    composition = made.composition(made.pool())
    assert composition.threshold == -0.25  # type: ignore[attr-defined]
    assert describe(composition) == describe(made.composition(made.pool()))


def test_the_embedded_pool_reads() -> None:
    made = read_config("embedded")
    assert made.settings.pool.name == "embedded"
    assert len(made.settings.expert) > 8
