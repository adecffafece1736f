"""What a pool tells of itself: `ps`, `top`, `doctor`, metrics, and the socket behind them."""
