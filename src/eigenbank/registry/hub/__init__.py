"""Direction sets on the Hugging Face Hub: publish, pull, discover, sync, verify.

Nothing here imports torch, and huggingface_hub is imported when the Hub or its cache is needed.
"""
