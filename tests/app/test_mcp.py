"""The app as tools of an MCP server, used by the real client over HTTP."""

import ast
import asyncio
import io
import urllib.request

import pytest
import soundfile

from diffusers_soundctm.cli import main

mcp = pytest.importorskip("mcp")


def with_session(address, work):
    """Run `work(session)` with a client of the server."""
    from mcp.client.streamable_http import streamablehttp_client

    async def run():
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await work(session)

    return asyncio.run(run())


def test_tools_say_what_they_do(served):
    tools = {tool.name: tool for tool in with_session(served, lambda session: session.list_tools()).tools}
    assert {"draft", "refine", "vary", "morph", "draw", "inpaint", "loop", "export", "known_kinds"} <= set(tools)
    for tool in tools.values():
        assert len(tool.description) > 40 and "Returns: " in tool.description
        for name, schema in tool.inputSchema["properties"].items():
            assert schema["description"], (tool.name, name)
    assert set(tools["draft"].inputSchema.get("required", [])) <= {"prompt"}


def test_an_agent_drafts_refines_and_gets_the_file(served):
    told = []

    async def progress(done, total, message):
        told.append(message)

    async def work(session):
        arguments = {"prompt": "rain", "seed": 3, "duration": 0.6}
        drafted = await session.call_tool("draft", arguments, progress_callback=progress)
        recipe = ast.literal_eval(drafted.content[1].text)
        arguments = {"recipe": recipe, "steps": 2}
        return drafted, recipe, await session.call_tool("refine", arguments, progress_callback=progress)

    drafted, recipe, refined = with_session(served, work)
    assert told
    assert (recipe["prompt"], recipe["noise"]["seed"]) == ("rain", 3) and drafted.content[2].text == ""
    for answer in (drafted, refined):
        assert not answer.isError
        with urllib.request.urlopen(answer.content[0].text) as file:
            samples, rate = soundfile.read(io.BytesIO(file.read()))
        assert (len(samples), rate) == (9600, 16000) and abs(samples).max() > 0
    assert ast.literal_eval(refined.content[1].text) == recipe | {"steps": 2}


def test_an_agent_reads_what_is_wrong(served):
    async def work(session):
        unknown = await session.call_tool("known_kinds", {})
        return unknown, await session.call_tool("draft", {"prompt": "rain", "seed": 3, "duration": 99})

    kinds, refused = with_session(served, work)
    assert kinds.content[0].text == "{}"
    assert refused.isError and "duration" in refused.content[0].text


def test_the_command_names_a_missing_package(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", "--mcp"]) == 2
    assert "--mcp needs the package mcp" in capsys.readouterr().err
