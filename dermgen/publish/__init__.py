"""`dermgen publish`: models and data sets to the Hugging Face Hub, with cards, behind gates."""
