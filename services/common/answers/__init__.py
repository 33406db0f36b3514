"""Answers beside probabilities: fitted by the trainer, applied by the classifier.

``answer_model.AnswerModel.answer`` is the way in. Knows neither torch, Ray nor gRPC.
"""
