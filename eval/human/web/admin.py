"""The admin's page: how the vote goes, live; never which system wins."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from eval.human.overview import HASTY_SECONDS, overview
from eval.human.web.site import OurSite, Site

router = APIRouter()


@router.get("/admin")
def admin_page(request: Request, site: OurSite) -> Response:
    """The whole admin page; its script replaces the main part every few seconds."""
    return _page(request, site, "admin.html.j2")


@router.get("/admin/live")
def admin_live(request: Request, site: OurSite) -> Response:
    """The main part alone."""
    return _page(request, site, "overview.html.j2")


@router.get("/admin/enter/{token}")
def admin_enter(request: Request, token: str, site: OurSite) -> Response:
    """The admin's link."""
    if not site.is_admin(request, token):
        return site.page("enter.html.j2", 401, failed=True, action="/admin", who="admin")
    return site.keep(RedirectResponse("/admin", 303), site.admin_cookie, token)


@router.post("/admin")
def admin_enter_by_form(request: Request, site: OurSite, token: Annotated[str, Form()] = "") -> Response:
    """The same for a token that was typed."""
    return admin_enter(request, token.strip(), site)


def _page(request: Request, site: Site, template: str) -> Response:
    if not site.is_admin(request, request.cookies.get(site.admin_cookie, "")):
        return site.page("enter.html.j2", 401, failed=False, action="/admin", who="admin")
    now = site.store.now()
    return site.page(
        template,
        view=overview(site.store),
        rules=site.store.rules,
        hasty_seconds=HASTY_SECONDS,
        time=datetime.fromtimestamp(now, UTC).strftime("%H:%M:%S UTC"),
        now=now,
    )
