"""What a method learns from: logs, batches, readers and writers, sources."""
