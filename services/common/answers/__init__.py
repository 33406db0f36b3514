"""What a classifier answers beside probabilities; the trainer fits it, the classifier applies it.

``answer_model.AnswerModel.answer`` is the way in. Knows neither torch, Ray nor gRPC.
"""
