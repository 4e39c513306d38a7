"""Where failed attempts belong that are of no step: positions in a run beside those of steps.

The workflow's own code is at the position "".
"""

# Those that found no code that could go on with the run.
DEPLOY_POSITION = "deploy"
# Those whose worker ended, and nobody knows in what.
WORKER_POSITION = "worker"
