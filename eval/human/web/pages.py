"""The rater's pages: the next item, votes, undo. The forms work without any script, and no page names a system."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from eval.human.markdown import render_answer
from eval.human.raters import form_token
from eval.human.votes import Choice, Outcome, claim, progress, record_vote, undo
from eval.human.web.site import OurRater, OurSite, Sender

router = APIRouter()

NOTES = {
    "undone": "Your last vote is taken back: here it is again.",
    "nothing": "There is no vote of yours to take back.",
    "already": "You voted on that one before; the first vote stands. Undo takes it back.",
    "gone": "That page was open too long and went to somebody else. Here is the next one.",
    "unknown": "That page was not yours. Here is the one that is.",
}


@router.get("/")
def vote_page(request: Request, site: OurSite, rater: OurRater, note: str = "") -> Response:
    """The rater's next item."""
    if rater is None:
        return site.page("enter.html.j2", 401, failed=False, action="/enter", who="rater")
    assignment = claim(site.store, rater.rater_id)
    values: dict[str, Any] = {
        "rater": rater,
        "progress": progress(site.store, rater.rater_id),
        "form": form_token(request.cookies[site.rater_cookie]),
        "note": NOTES.get(note, ""),
    }
    if assignment is None:
        return site.page("done.html.j2", **values)
    turns = [(said, render_answer(left), render_answer(right)) for said, left, right in assignment.turns]
    return site.page("vote.html.j2", **values, assignment=assignment, turns=turns)


@router.get("/enter/{token}")
def enter(request: Request, token: str, site: OurSite) -> Response:
    """A rater's link."""
    if not site.may_enter(request, token):
        return site.page("enter.html.j2", 401, failed=True, action="/enter", who="rater")
    return site.keep(RedirectResponse("/", 303), site.rater_cookie, token)


@router.post("/enter")
def enter_by_form(request: Request, site: OurSite, token: Annotated[str, Form()] = "") -> Response:
    """The same for a token that was typed; the whole link will do."""
    return enter(request, token.strip().rsplit("/", 1)[-1], site)


@router.post("/vote")
def vote(
    site: OurSite, sender: Sender, assignment: Annotated[int, Form(lt=2**63)], choice: Annotated[Choice, Form()]
) -> Response:
    """Stores a vote and shows the next item."""
    outcome = record_vote(site.store, sender.rater_id, assignment, choice)
    return RedirectResponse("/" if outcome is Outcome.stored else f"/?note={outcome.value}", 303)


@router.post("/undo")
def take_back(site: OurSite, sender: Sender) -> Response:
    """Undoes the rater's last vote."""
    return RedirectResponse(f"/?note={'undone' if undo(site.store, sender.rater_id) else 'nothing'}", 303)
