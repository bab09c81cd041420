"""`soundctm demo`: open the app."""

import argparse
import importlib.util

from .arguments import add_device, add_dtype, add_lora, add_model
from .rendering import load_pipeline


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("demo", help="open the app in a browser", epilog="example: soundctm demo --open")
    parser.set_defaults(run=run)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument("--mcp", action="store_true", help="let agents use the app, as tools of an MCP server")
    parser.add_argument("--open", action="store_true", help="open a browser window")
    add_dtype(parser)
    add_device(parser)
    add_model(parser)
    add_lora(parser)


def run(arguments: argparse.Namespace) -> None:
    """Serve the app until it is interrupted.

    Raises:
        ValueError, OSError: gradio is not installed, or an argument is wrong; the message names the remedy.
    """
    if arguments.port is not None and not 0 < arguments.port < 2**16:
        raise ValueError(f"--port is {arguments.port}; choose a number from 1 to 65535.")
    if arguments.mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError('--mcp needs the package mcp; install it with: pip install "mcp>=1.21,<2"')
    try:
        from ..app import build_app, launch
    except ImportError as error:
        raise ValueError('The app needs gradio; install it with: pip install "gradio>=6.31,<7"') from error
    pipe = load_pipeline(arguments.model, arguments.dtype, arguments.device, arguments.lora)
    app = build_app(pipe, arguments.model or "embedded", lora=arguments.lora)
    launch(
        app,
        server_name=arguments.host,
        server_port=arguments.port,
        inbrowser=arguments.open,
        mcp_server=arguments.mcp,
    )
