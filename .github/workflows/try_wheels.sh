#!/bin/sh
# Usage: try_wheels.sh FOLDER PYTHON...
# Installs the wheel in FOLDER into a new environment of each PYTHON and makes an event loop.
set -eu
wheels=$1
shift
environments=$(mktemp -d)
for python in "$@"; do
    "$python" -m venv "$environments/$python"
    "$environments/$python/bin/pip" install --no-index --find-links "$wheels" loop_pool
    "$environments/$python/bin/python" -c "import loop_pool; loop_pool.new_event_loop().close()"
done
