"""``mlops demo``: four months of real flights in minutes. The sensors do the work; this only lands files, sends requests and watches."""
