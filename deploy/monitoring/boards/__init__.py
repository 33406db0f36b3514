"""The dashboards, in the order of their menu."""

from deploy.monitoring.boards import classifier, edge, generator, overview, privacy, trainer

BOARDS = tuple(one.BOARD for one in (overview, generator, trainer, classifier, edge, privacy))
