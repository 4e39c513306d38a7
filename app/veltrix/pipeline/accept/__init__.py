"""Accept: requests become events and runs in one statement, and then receipts."""
