//! Comparisons as Markdown, LaTeX, CSV, JSON and plots.
