"""Decoding with sequence models: cached beam search and greedy decoding, compiled as a whole.

```python
decoder = sparsity_tf.decoding.Decoder(model)
hypotheses = decoder.beam_search(ids, beam_size=4, alpha=0.6)
```
"""

from sparsity_tf.decoding.decoder import Decoder
from sparsity_tf.decoding.search import Hypotheses, beam_search, greedy_search, length_penalty

__all__ = [
    "Decoder",
    "Hypotheses",
    "beam_search",
    "greedy_search",
    "length_penalty",
]


def __dir__():
    return __all__
