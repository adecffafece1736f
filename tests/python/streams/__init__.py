"""`StreamReader` and `StreamWriter`: asyncio's own over our transports, and the native ones."""
