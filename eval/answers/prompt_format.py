"""The formats in which a model can be asked an open question, apart from torch, as plans and settings name them."""

from enum import Enum


class PromptFormat(Enum):
    auto = "auto"  # chat where the tokenizer has a template, else human
    chat = "chat"
    human = "human"
