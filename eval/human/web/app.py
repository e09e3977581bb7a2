"""The voting application: FastAPI, rendered on the server.

    app = create_app(VoteStore(path), Access(admin_sha256=hash_token(secret), hosts=frozenset({"127.0.0.1"})))

/                the rater's next item, or the page that asks for a token  (`eval.human.web.pages`)
/enter/<token>   a rater's link: keeps the token as a cookie
/vote, /undo     forms
/admin           progress and quality, for who has the admin's token       (`eval.human.web.admin`)
"""

from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.human.store import VoteStore
from eval.human.web import admin, pages
from eval.human.web.guard import Access, Guard, Refused, TokenTries
from eval.human.web.site import Site, site_of

HERE = Path(__file__).parent


def create_app(store: VoteStore, access: Access) -> FastAPI:
    """The application, for a server or a test client."""
    app = FastAPI(openapi_url=None)
    loader = FileSystemLoader(HERE / "templates")
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    app.state.site = Site(store=store, access=access, templates=templates, tries=TokenTries())
    app.add_middleware(Guard, access=access)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _form_error)
    app.add_exception_handler(Refused, _refused)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.include_router(pages.router)
    app.include_router(admin.router)
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return site_of(request).page("error.html.j2", error.status_code, message=str(error.detail))


async def _form_error(request: Request, error: Exception) -> Response:
    return site_of(request).page("error.html.j2", 422, message="This form lacks something. Go back and try again.")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return site_of(request).page("error.html.j2", error.status, message=error.why)
