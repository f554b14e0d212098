"""How the embedded pool came about: families of questions, models, training, export, cards."""
