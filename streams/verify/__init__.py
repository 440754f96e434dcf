"""``tierstream verify``: what the topics and the database hold, put side by side. What is decided again, the stages say
(``agents.verify``); here stands how it is compared, and nothing here knows a stage's decisions.
"""
