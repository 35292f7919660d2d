"""The verbs of a volume: fetch, flush, publish, recover."""
