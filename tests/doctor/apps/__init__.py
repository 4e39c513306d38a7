"""Small Celery applications as people have them; what is wrong with each is in test_apps.py."""
