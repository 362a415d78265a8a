"""Worker side of Dnnamo: the Celery app and its one task, dispatch, the supervisor and the runner processes it owns."""
