"""What is durable: tables, ledger, journal, books. Every function here receives its transaction."""
