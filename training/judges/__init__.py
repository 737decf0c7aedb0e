"""Small networks that judge generated videos, trained on true renders only.

``JudgesTask`` trains them, ``Panel`` loads and applies them. A judge's score on true frames belongs beside every score
it gives: it is the best that judge can say.
"""
