"""What a run leaves behind: rows in Parquet files, a manifest with its plan, a lock while it runs."""
