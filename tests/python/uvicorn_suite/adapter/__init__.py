"""What stands between uvicorn's own tests and the server in Rust."""
