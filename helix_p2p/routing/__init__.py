"""Which stages: interleaved weighted round robin over the plan's flow, and admission."""
