"""Where the work is done: in this process, on a local Ray, or on a cluster. Only this package imports Ray."""
