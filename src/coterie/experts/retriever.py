"""A retriever as an expert: it answers a question with the ids of documents, best first.

So a pool of retrievers is routed, served and judged like a pool of language models: the answer's
text is the ranked ids, one a line, and its score whatever metric of a ranking one likes
(``coterie.metrics.ranked.ndcg``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from coterie.experts.base import Expert, Price
from coterie.experts.function import FunctionExpert
from coterie.types import Call, Completion

Search: TypeAlias = Callable[[str, int], Sequence[str]]  # question, how many -> ids, best first


class RetrieverExpert(FunctionExpert):
    """Answers with the ids that ``search(question, k)`` ranks first, one a line.

    What is searched for is the last user message. An id that holds a line break, or that is found
    twice, is an error of the expert; finding nothing is one too, as any empty answer.
    """

    def __init__(
        self,
        name: str,
        search: Search,
        *,
        k: int = 10,
        price: Price = Expert.price,
        slots: int = 8,
    ) -> None:
        super().__init__(name, self._ranking, price=price, slots=slots)
        self.search, self.k = search, k

    def _ranking(self, call: Call) -> str:
        asked = [str(m["content"]) for m in call.messages if m.get("role") == "user"]
        ids = [str(found) for found in self.search(asked[-1], self.k)][: self.k]
        if len(set(ids)) < len(ids) or any(len(found.splitlines()) != 1 for found in ids):
            raise ValueError(f"expected distinct ids of one line each, got {ids!r:.80}")
        return "\n".join(ids)

    def fingerprint(self) -> str:
        """Module and name of the search; not what it searches."""
        name = getattr(self.search, "__qualname__", type(self.search).__qualname__)
        module = getattr(self.search, "__module__", type(self.search).__module__)
        return f"{self.name}: {self.k} of {module}:{name}"


def ranked_ids(answer: Completion | str) -> list[str]:
    """The ids in an answer of a retriever, best first; none where it failed."""
    if isinstance(answer, Completion):
        return [] if answer.failed else answer.text.splitlines()
    return answer.splitlines()
