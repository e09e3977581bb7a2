"""What a reply is stored as: read as it came, without the key in its text and in the reason why it can't be read."""

from eval.judges.request import Reply, reply_judgment
from eval.judging.matches import Judgment
from eval.judging.options import ApiOptions
from eval.judging.prompts import Mode


def stored(text: str, key: str) -> Judgment:
    reply = Reply(
        text=text, refusal=None, finish_reason="stop", num_prompt_tokens=1, num_completion_tokens=1, model="m"
    )
    match = ("question", "ann", "bob")
    return reply_judgment(
        ApiOptions(model="m"),
        Mode.pairwise,
        match,
        "0" * 64,
        reply,
        None,
        None,
        lambda text: text.replace(key, "[key]"),
    )


def test_the_text_is_stored_without_the_key_and_read_with_it() -> None:
    found = stored("Key 1, fine.\n1", "1")
    assert (found.verdict, found.raw_text) == (1, "Key [key], fine.\n[key]")


def test_the_reason_is_stored_without_the_key() -> None:
    plain = stored("", "no such text")
    assert plain.reason
    word = plain.reason.split()[0]
    assert stored("", word).reason == plain.reason.replace(word, "[key]")
