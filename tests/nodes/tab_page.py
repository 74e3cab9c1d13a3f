"""The Hapax tab and the graph beside it, as a person uses them."""

from __future__ import annotations

GRAPH = """([loaders, samplers]) => {
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    app.graph.clear();
    // Beside the sidebar and below the bars, wherever an earlier graph was left.
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset[0] = 270;
    app.canvas.ds.offset[1] = 60;
    for (let place = 0; place < loaders; place += 1) {
        const loader = add("CheckpointLoaderSimple", 200, 200 + 500 * place);
        for (let each = 0; each < samplers; each += 1) {
            const sampler = add("KSampler", 1100, 200 + 500 * (place + each));
            loader.connect(0, sampler, sampler.findInputSlot("model"));
        }
    }
}"""
# Type and model's source of each sampler, then the wiring of what was added.
WIRING = """() => {
    const from = (node, name) => {
        const slot = node.inputs[node.findInputSlot(name)];
        if (slot?.link == null) return null;
        const link = app.graph._links?.get?.(slot.link) ?? app.graph.links[slot.link];
        return app.graph.getNodeById(link.origin_id).type;
    };
    const seen = {};
    for (const node of app.graph._nodes) {
        const inputs = node.inputs.map((slot) => [slot.name, from(node, slot.name)]);
        (seen[node.type] ??= []).push(Object.fromEntries(inputs));
    }
    return seen;
}"""


def settled(page):
    """What is wired to what, once it has settled."""
    page.wait_for_timeout(700)
    return page.evaluate(WIRING)


def look_at(page, kind):
    """Move the graph so that the node of this kind lies in the middle, under none of ComfyUI's bars."""
    page.evaluate("kind => app.canvas.centerOnNode(app.graph._nodes.find(each => each.type === kind))", kind)
    page.wait_for_timeout(300)


def amplify(page, place=0):
    """Press Amplify on a card."""
    page.locator(".hapax-card .hapax-amplify").nth(place).click()


def open_audit(page, name):
    """Open an audit of the list."""
    page.locator(".hapax-audit", has=page.locator(f"b:text-is('{name}')")).click()
    page.wait_for_selector(".hapax-card")
