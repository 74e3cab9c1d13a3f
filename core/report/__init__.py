"""audit.json, and the one offline HTML page that shows it."""

from .html import MAX_FEATURES, write_report
from .schema import SCHEMA_VERSION, load_audit, save_audit, validate

__all__ = ["MAX_FEATURES", "SCHEMA_VERSION", "load_audit", "save_audit", "validate", "write_report"]
