"""Builder of the mini world: tiny models, SAEs and tasks with known causes (ours).

Read in this order: `words.yaml` and `lexicon` (words); `meaning`, `statements`, `requests` and
`grammar` (sentences and their labels); `facts` (invented people); `tasks` (labelled texts);
`corpus` and `chat` (training text); `tokenizer`, `language_model`, `vision`; `build` (all of it
from one seed), `cards`, `check` (does it mean anything).
"""

from __future__ import annotations
