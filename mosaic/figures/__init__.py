"""One function per figure; each takes tidy scores and does not care where they come from."""

CHAPTER_OF_FIGURE = {
    "fig-baselines": "04_baselines",
}
