"""How a role is seen from outside: structured logs, metrics, health. Never a payload, a query value or a secret."""
