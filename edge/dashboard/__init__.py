"""The board's own dashboard: what runs on a gateway, live, and what a person may do to it (docs/board-api.md).

``hub`` remembers the newest of everything and makes JSON only while somebody listens; ``state`` says how all stands,
``words`` says it in English and French; ``actions`` are what a person may do, each with an audit row; ``auth`` and
``routes`` say who may ask what.
"""
