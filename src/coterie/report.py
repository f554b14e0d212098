"""x"""

from coterie.demo import Study


def render(study: Study) -> str:
    """X"""
    return "x"
