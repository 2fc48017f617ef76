"""One module a group of routes; each has `router(context) -> APIRouter`. Listed in serving/gateway.py."""
