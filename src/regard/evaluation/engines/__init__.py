"""Who computes the shards of a run: this process, several of this machine, or a cluster. All give the same rows."""
