"""Export networks to files for other runtimes; `leanconv.export` runs each file and compares it before it returns."""
