"""What all pages share: access, cookies, and the headers under which no foreign code runs or loads.

Every answer carries a Content-Security-Policy under which only our own two scripts run. A form counts where the cookie
(SameSite) and the form's own token fit, which another site can't read, and the browser doesn't say that it comes from
another site.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from jinja2 import Environment

from eval.human.raters import Rater, find_rater, is_form_token, same_token
from eval.human.store import VoteStore

MAX_FORM_BYTES = 4096
COOKIE_SECONDS = 90 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may reach what."""

    admin_sha256: str  # hash of the admin's token
    hosts: frozenset[str] | None  # names under which a browser may ask, against DNS rebinding; None: any
    secure_cookies: bool = False  # only under https


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every page needs."""

    store: VoteStore
    access: Access
    templates: Environment

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

    def is_admin(self, token: str) -> bool:
        """Whether this is the admin's token."""
        return same_token(token, self.access.admin_sha256)


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


async def guard(request: Request, call_next: Endpoint) -> Response:
    """Refuses what no page of ours sends, and adds the headers to everything."""
    refusal = _refusal(request, site_of(request).access)
    response = await call_next(request) if refusal is None else PlainTextResponse(refusal[1], refusal[0])
    response.headers.update(HEADERS)
    return response


def _refusal(request: Request, access: Access) -> tuple[int, str] | None:
    """(status, why), where a request is not answered at all."""
    if access.hosts is not None and (_host(request) or "") not in access.hosts:
        return 421, "This server is not known under that name."
    if request.method not in ("GET", "HEAD"):
        length = request.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return 411, "A form says how long it is."
        if int(length) > MAX_FORM_BYTES:
            return 413, f"A form here has at most {MAX_FORM_BYTES} bytes."
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "This form comes from another site."
    return None


def _host(request: Request) -> str | None:
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname
    except ValueError:
        return None
