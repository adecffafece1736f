"""uvicorn's own tests on `http="native"`: the runner, what is left out, and tests of both."""
