"""The published verbs: a translation at the edge, between packed tensors and our contexts.

Published scripts pass dictionaries of indexes and a cache that calls change; inside, blocks enter
contexts, which are values. A cache is the variable that holds one context a sample. Each call takes
the values out, does with them what every other caller does, and puts new ones in. There is no
second model and no second attention here.
"""

import modeling.bagel  # noqa: F401 - made of these modules, so it comes first, whoever asks
