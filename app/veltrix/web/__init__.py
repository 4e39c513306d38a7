"""What the api and the console share: who asks, what is asked, and how a refusal is told."""
