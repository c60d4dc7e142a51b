"""Builder of the mini world: tiny models, SAEs and tasks with known causes (ours).

Read in this order: `lexicon` (words), `grammar` (sentences and their labels), `facts` (entities),
`tasks` (labelled texts), `corpus` (pretraining text), `tokenizer`, `language_model`, `sae`,
`vision`, `build` (all of it from one seed), `check` (does it mean anything).
"""
