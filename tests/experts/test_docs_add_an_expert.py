import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "add-an-expert.md"


def test_the_example_on_the_page_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
