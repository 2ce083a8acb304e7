"""Standard modules that tools use often, imported when the component is built.

They become part of its first memory, so a flow that uses them neither reads nor compiles them. `importlib.metadata`
belongs here for another reason too: without it `importlib.invalidate_caches()` imports it, 100 ms at the first call.
"""

import abc, argparse, ast, asyncio, base64, bisect, calendar, codecs, collections, concurrent.futures  # noqa: E401,F401
import configparser, contextlib, contextvars, copy, csv, dataclasses, datetime, decimal, difflib, email  # noqa: E401,F401
import email.message, email.parser, enum, fnmatch, fractions, functools, gc, gettext, glob, hashlib  # noqa: E401,F401
import heapq, hmac, html, html.parser, http.client, importlib.metadata, importlib.resources  # noqa: E401,F401
import importlib.util, inspect, io, ipaddress, itertools, json, locale, logging, math, mimetypes, numbers  # noqa: E401,F401
import operator, os, pathlib, ssl, pickle, pprint, queue, random, re, reprlib, secrets, shutil, socket  # noqa: E401,F401
import statistics, string, struct, sys, tempfile, textwrap, threading, time, tomllib, traceback, types  # noqa: E401,F401
import typing, unicodedata, urllib.error, urllib.parse, urllib.request, uuid, warnings, weakref  # noqa: E401,F401
import xml.etree.ElementTree, zipfile, zoneinfo  # noqa: E401,F401

# What tools import from promptflow, and modules that only larger imports would pull in.
import concurrent.futures.thread, encodings.idna, encodings.latin_1, encodings.utf_16  # noqa: E401,F401
import promptflow.client, promptflow.connections, promptflow.core, promptflow.entities  # noqa: E401,F401
import promptflow.exceptions, promptflow.tracing, promptflow.contracts.multimedia, promptflow.contracts.types  # noqa: E401,F401
import promptflow.tracing._operation_context  # noqa: E401,F401

# Modules that are imported at the first use of a function.
ast.unparse(ast.parse("0"))
