"""Files for other runtimes, each run and compared before it is handed over: `leanconv.export`."""
