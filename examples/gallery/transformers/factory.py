"""A classifier of transformers, as its package has it."""

import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification

LABELS = ("negative", "positive")


class Network(nn.Module):
    """Takes tokens, (batch, sequence) int64, and gives the scores of the classes."""

    def __init__(self):
        super().__init__()
        # Random weights of a small network, so that nothing has to be downloaded. For real ones, take
        # AutoModelForSequenceClassification.from_pretrained with a name of the Hub, such as
        # "distilbert/distilbert-base-uncased-finetuned-sst-2-english", and the revision that you looked at.
        torch.manual_seed(0)
        size = {"dim": 96, "n_layers": 3, "n_heads": 4, "hidden_dim": 384, "vocab_size": 2000}
        self.model = DistilBertForSequenceClassification(DistilBertConfig(**size, num_labels=len(LABELS)))

    def forward(self, input_ids, attention_mask):
        """Return the scores as a plain tensor, which the build exports."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def build():
    """Return the network."""
    return Network()
