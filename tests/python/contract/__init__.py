"""What a program may rely on: the package's names, and what asyncio asks of loops and tasks."""
