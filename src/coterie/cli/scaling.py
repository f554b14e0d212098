"""Commands at the scale of RouterEval: scale."""
