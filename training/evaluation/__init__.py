"""Scoring generated talking people: metrics, the protocol that produces what they score, and the report.

``metrics`` knows tensors only, ``generation`` drives a trained model in batches, ``protocol`` decides what is generated
and compared, ``real_speech`` scores videos without ground truth, ``report`` prints and writes.
"""
