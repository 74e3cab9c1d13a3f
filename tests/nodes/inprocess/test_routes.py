"""The routes under /hapax, on a real aiohttp server: what they give, and what they refuse."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os

import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hapax.core.directions import CaptionIndex, Recipe
from hapax.core.directions.assemble import assemble
from hapax.core.directions.parts import Parts
from hapax.core.directions.texts import Texts
from hapax.core.feature_audit import write_feature_audit
from hapax.core.library import FEATURES, content_hash
from hapax.nodes import routes
from hapax.nodes.routes import MOST_BODY, Routes
from PIL import Image

SCRIPT = "<img src=x onerror=alert(1)>"


@pytest.fixture
def base(findings, tmp_path):
    """Two audits of the planted recording."""
    for name in ("first", "second"):
        folder = tmp_path / "hapax" / name
        folder.mkdir(parents=True)
        write_feature_audit(findings[0], folder, model_name="tiny", provenance={"reproduce": "Again."})
        (folder / FEATURES).write_bytes(b"features")
    return tmp_path / "hapax"


@pytest.fixture
def ask(base):
    """`ask(method, path, **options)`: status, headers and body; `{0}` in a path is the first audit's id."""

    def once(method, path, own=True, **options):
        async def run():
            table = web.RouteTableDef()
            Routes(base).add_to(table)
            # The limit that ComfyUI has for requests that are read whole.
            app = web.Application(client_max_size=1 << 20)
            app.add_routes(table)
            async with TestClient(TestServer(app)) as client:
                rows = await (await client.get("/hapax/audits")).json()
                there = sorted(rows, key=lambda row: row["name"])
                where = path.format(*(row["id"] for row in there), version=there[0].get("version"))
                headers = {"Origin": f"http://{client.server.host}:{client.server.port}"} if own else {}
                headers |= options.pop("headers", {})
                async with client.request(method, where, headers=headers, **options) as answer:
                    return answer.status, answer.headers, await answer.read()

        return asyncio.run(run())

    return once


def told(answer):
    return answer[0], json.loads(answer[2])


def label(ask, body, own=True, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **headers}
    return ask("POST", "/hapax/audits/{0}/label", own, data=data, headers=sent)


def test_audits_and_one_of_them(ask):
    status, rows = told(ask("GET", "/hapax/audits"))
    assert status == 200
    assert {row["name"] for row in rows} == {"first", "second"}
    status, view = told(ask("GET", "/hapax/audits/{0}"))
    assert (status, view["name"], view["model"]["name"]) == (200, "first", "tiny")
    assert view["features"][0]["exemplars"]


def test_the_prompt_of_one_picture(ask, base):
    status, answer = told(ask("GET", "/hapax/audits/{0}/seeds/7"))
    assert (status, "wasn't made in ComfyUI" in answer["error"]) == (400, True)
    harvest = {"model": ["1", 0], "vae": ["1", 2], "first_seed": 2**63, "count": 2, "width": 64, "height": 64}
    prompt = {"1": {"class_type": "X", "inputs": {}}, "2": {"class_type": "HapaxHarvestActivations", "inputs": harvest}}
    (base / "first" / "prompt.json").write_text(json.dumps(prompt))
    status, made = told(ask("GET", f"/hapax/audits/{{0}}/seeds/{2**63 + 1}"))
    assert status == 200
    assert made["1"] == prompt["1"]
    assert [node["inputs"]["seed"] for node in made.values() if node["class_type"] == "KSampler"] == [2**63 + 1]
    for wrong in ("-1", "x", "1" * 21):
        assert ask("GET", f"/hapax/audits/{{0}}/seeds/{wrong}")[0] == 400


def test_captions_while_one_types(ask, base_directory):
    names = ("a blue hat", "a red hat", "a cat")
    parts = Parts(base_directory / "parts", names, [0, 1], Recipe(progress=(0.5,)), "m")
    parts.folder.mkdir(exist_ok=True)
    for span in parts._spans():
        parts._write(span, torch.randn(len(span), 2, 1, 8))
    tensors, reach = assemble(parts, len(names), None)
    meta = {"architecture": "X", "model": "m", "site": "mid", "channels": 8, "reach": reach, "neutral": None}
    folder = base_directory / "models" / "hapax" / "captions"
    folder.mkdir(parents=True, exist_ok=True)
    index = CaptionIndex(Texts.of(names), tensors, meta | {"recipe": vars(parts.recipe), "seeds": parts.seeds})
    index.save(folder / "hats.safetensors")
    assert told(ask("GET", "/hapax/captions?index=captions/hats.safetensors&typed=HAT")) == (
        200,
        ["a red hat", "a blue hat"],
    )
    for wrong in ("none.safetensors", "../../x.safetensors", ""):
        assert ask("GET", f"/hapax/captions?index={wrong}&typed=a")[0] == 400


def test_a_picture_may_be_kept_and_is_never_a_page(ask):
    status, headers, body = ask("GET", "/hapax/audits/{0}/{version}/pictures/0?edge=192")
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in headers["Cache-Control"]
    picture = Image.open(io.BytesIO(body))
    assert max(picture.size) == 192
    assert picture.get_format_mimetype() == headers["Content-Type"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/hapax/audits/first", 404),
        ("/hapax/audits/..%2F..%2Fmodels", 404),
        ("/hapax/audits/%2e%2e", 404),
        ("/hapax/audits/%00", 404),
        ("/hapax/audits/{0}/{version}/pictures/99999", 404),
        ("/hapax/audits/{0}/{version}/pictures/-1", 400),
        ("/hapax/audits/{0}/{version}/pictures/images%2Fs0.png", 400),
        ("/hapax/audits/{0}/{version}/pictures/%D9%A3", 400),
        ("/hapax/audits/{0}/{version}/pictures/0?edge=5000", 400),
        ("/hapax/audits/{0}/{version}/pictures/0?edge=1e9", 400),
        ("/hapax/audits/{0}/0000/pictures/0", 404),
        ("/hapax/audits/{0}/zip/../../../secret", 404),
        ("/hapax/compare?before={0}&after=../x", 404),
        ("/hapax/compare", 404),
    ],
)
def test_what_leads_elsewhere_is_not_there(ask, path, status):
    answer = ask("GET", path)
    assert answer[0] == status, answer[2]


def test_where_the_features_are(ask, base):
    status, where = told(ask("GET", "/hapax/audits/{0}/features"))
    assert status == 200
    assert where == {"audit": "first", "prompt": 1, "content": content_hash(base / "first" / FEATURES)}
    assert told(ask("GET", "/hapax/audits/{0}/features?prompt=1"))[0] == 404
    (base / "first" / "features-2.safetensors").write_bytes(b"of the second prompt")
    where = told(ask("GET", "/hapax/audits/{0}/features?prompt=1"))[1]
    assert (where["prompt"], where["content"]) == (2, hashlib.sha256(b"of the second prompt").hexdigest())
    for prompt in ("-1", "x", "../2", "9999999"):
        assert told(ask("GET", f"/hapax/audits/{{0}}/features?prompt={prompt}"))[0] == 400
    (base / "first" / FEATURES).unlink()
    assert told(ask("GET", "/hapax/audits/{0}/features"))[0] == 404


def test_the_content_of_a_file_in_models(ask, base_directory):
    folder = base_directory / "models" / "hapax" / "sae"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "known.safetensors").write_bytes(b"known")
    status, answer = told(ask("GET", f"/hapax/content?name=sae{os.sep}known.safetensors"))
    assert (status, answer) == (200, {"content": hashlib.sha256(b"known").hexdigest()})
    for name in ("", "../../secret.safetensors", "sae/missing.safetensors"):
        status, answer = told(ask("GET", f"/hapax/content?name={name}"))
        assert status == 400
        assert "There is no file" in answer["error"]


def test_a_label_is_saved_and_stays_after_a_restart(ask):
    feature = told(ask("GET", "/hapax/audits/{0}"))[1]["features"][0]["id"]
    status, answer = told(label(ask, {"feature": feature, "label": SCRIPT}))
    assert (status, answer) == (200, {"names": {feature: SCRIPT}})
    # Each `ask` is a server of its own.
    assert told(ask("GET", "/hapax/audits/{0}"))[1]["names"] == {feature: SCRIPT}
    assert told(ask("GET", "/hapax/audits/{1}"))[1]["names"] == {}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_only_the_own_page_may_change_anything(ask, base, headers):
    feature = told(ask("GET", "/hapax/audits/{0}"))[1]["features"][0]["id"]
    assert label(ask, {"feature": feature, "label": "evil"}, own=False, **headers)[0] == 403
    sent = {"Content-Type": "application/zip", **headers}
    assert ask("POST", "/hapax/import", own=False, data=b"PK", headers=sent)[0] == 403
    assert not (base / "first" / "labels.json").exists()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"\xff\xfe", 400),
        (b"[" * 4000, 400),
        (b" " * (MOST_BODY + 1), 413),
        ({"feature": "p0-f1", "label": 7}, 404),
        ({"feature": None, "label": "x"}, 404),
        ({"feature": {"a": 1}, "label": "x"}, 404),
        ({"label": "x"}, 404),
        ({"feature": "../../x", "label": "x"}, 404),
    ],
)
def test_a_malformed_label_is_refused(ask, base, body, status):
    assert label(ask, body)[0] == status
    assert not (base / "first" / "labels.json").exists()


def test_a_label_that_is_none_is_refused(ask, base):
    feature = told(ask("GET", "/hapax/audits/{0}"))[1]["features"][0]["id"]
    for name in (7, None, "x" * 121, "a\u202eb", ["x"]):
        assert label(ask, {"feature": feature, "label": name})[0] == 400
    assert not (base / "first" / "labels.json").exists()


def test_forms_of_other_pages_are_not_read(ask):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert label(ask, b'{"feature": "x", "label": "y"}', **{"Content-Type": kind})[0] == 415
        assert ask("POST", "/hapax/import", data=b"PK", headers={"Content-Type": kind})[0] == 415


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_what_is_read_only_stays_so(ask, method):
    for path in ("/hapax/audits", "/hapax/audits/{0}", "/hapax/audits/{0}/zip", "/hapax/compare"):
        assert ask(method, path)[0] == 405


def test_there_and_back_in_a_zip(ask, base):
    status, headers, packed = ask("GET", "/hapax/audits/{0}/zip")
    assert (status, headers["Content-Type"]) == (200, "application/zip")
    assert headers["Content-Disposition"] == 'attachment; filename="first.hapax.zip"'
    sent = {"Content-Type": "application/zip"}
    status, made = told(ask("POST", "/hapax/import?name=first.hapax.zip", data=packed, headers=sent))
    assert (status, made["name"]) == (200, "first-2")
    kept = base / "first-2" / FEATURES
    assert kept.read_bytes() == (base / "first" / FEATURES).read_bytes()
    assert len(told(ask("GET", "/hapax/audits"))[1]) == 3


def test_a_zip_that_is_none_or_too_large(ask, base, monkeypatch):
    sent = {"Content-Type": "application/zip"}
    status, answer = told(ask("POST", "/hapax/import", data=b"not a zip", headers=sent))
    assert status == 400
    assert "not a zip" in answer["error"]
    monkeypatch.setattr(routes, "MOST_ZIP", 100)
    assert ask("POST", "/hapax/import", data=bytes(3 << 20), headers=sent)[0] == 413
    assert {path.name for path in base.iterdir()} == {"first", "second"}


def test_comparing_an_audit_with_itself_finds_nothing(ask):
    status, rows = told(ask("GET", "/hapax/compare?before={0}&after={1}"))
    assert status == 200
    assert all(row["change"] == 0 and not row["clear"] for row in rows)
