"""What devices know and what each lacks: the tree, the merge, versions, holes. Pure."""
