"""The middle floor: observations and cluster facts in; journeys, verdicts and findings out. Pure."""
