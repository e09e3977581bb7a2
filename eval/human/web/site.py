"""What all pages share: the store, the templates, the cookies, and who sends a request.

Every answer carries a Content-Security-Policy under which only our own two scripts run (`eval.human.web.guard`). A form
counts where the cookie (SameSite) and the form's own token fit, which another site can't read, and the browser doesn't
say that it comes from another site.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment

from eval.human.raters import Rater, find_rater, is_form_token, same_token
from eval.human.store import VoteStore
from eval.human.web.guard import Access, TokenTries

COOKIE_SECONDS = 90 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every page needs."""

    store: VoteStore
    access: Access
    templates: Environment
    tries: TokenTries

    @property
    def rater_cookie(self) -> str:
        """Cookies don't know ports: two tournaments on one machine need two names."""
        return f"rater_{self.store.contest_sha256[:8]}"

    @property
    def admin_cookie(self) -> str:
        return f"admin_{self.store.contest_sha256[:8]}"

    def page(self, template: str, status: int = 200, **values: object) -> HTMLResponse:
        """Renders a template."""
        return HTMLResponse(self.templates.get_template(template).render(values), status_code=status)

    def keep(self, response: Response, cookie: str, token: str) -> Response:
        """Sets a cookie that no script reads and no other site's form sends."""
        response.set_cookie(
            cookie, token, max_age=COOKIE_SECONDS, httponly=True, samesite="lax", secure=self.access.secure_cookies
        )
        return response

    def is_admin(self, request: Request, token: str) -> bool:
        """Whether the token is the admin's; wrong ones of one address are counted.

        Raises:
            Refused: too many wrong ones came from there.
        """
        if not token:
            return False
        return self.tries.is_right(f"admin {_address(request)}", lambda: same_token(token, self.access.admin_sha256))

    def may_enter(self, request: Request, token: str) -> bool:
        """Whether the token is a rater's; wrong ones of one address are counted, as for the admin's."""
        return self.tries.is_right(f"rater {_address(request)}", lambda: find_rater(self.store, token) is not None)


def site_of(request: Request) -> Site:
    """The site that serves this request."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


OurSite = Annotated[Site, Depends(site_of)]


def rater_of(request: Request, site: OurSite) -> Rater | None:
    """Who asks; None without a cookie that opens something."""
    return find_rater(site.store, request.cookies.get(site.rater_cookie, ""))


def sender_of(request: Request, site: OurSite, form: Annotated[str, Form()] = "") -> Rater:
    """Who sent a form.

    Raises:
        HTTPException: 401 for nobody, 403 for a form that isn't from our own page.
    """
    rater = rater_of(request, site)
    if rater is None:
        raise HTTPException(401, "Your link is not known here any more. Ask for a new one.")
    if not is_form_token(form, request.cookies[site.rater_cookie]):
        raise HTTPException(403, "This form is not from your own page. Go back, reload, and vote again.")
    return rater


OurRater = Annotated[Rater | None, Depends(rater_of)]
Sender = Annotated[Rater, Depends(sender_of)]


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host
