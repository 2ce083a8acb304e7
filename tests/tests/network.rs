//! Tools that ask others, by HTTP and in no other way.

#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use flowcell_tests::{Answer, FlowFolder};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// A server that tells what it was asked: method, path, the header `x-own`, and the body. `/chunks` comes in chunks, `/away`
/// leads on to `/`, `/status/NUMBER` has that status, `/held` answers once `/go` was asked.
struct Echo {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        let (go, may_go) = std::sync::mpsc::channel();
        let may_go = Arc::new(Mutex::new(may_go));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (all, go, may_go) = (Arc::clone(&all), go.clone(), Arc::clone(&may_go));
                thread::spawn(move || {
                    let _ = serve(stream.unwrap(), &all, &go, &may_go);
                });
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(
    stream: TcpStream,
    all: &Mutex<Vec<String>>,
    go: &std::sync::mpsc::Sender<()>,
    may_go: &Mutex<std::sync::mpsc::Receiver<()>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (
            words.next().unwrap().to_owned(),
            words.next().unwrap().to_owned(),
        );
        let (mut length, mut chunked, mut own) = (0, false, String::new());
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim_end();
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(": ").unwrap();
            match name {
                "content-length" => length = value.parse().unwrap(),
                "transfer-encoding" => chunked = true,
                "x-own" => value.clone_into(&mut own),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        while chunked {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            chunked = size > 0;
        }
        all.lock().unwrap().push(format!("{method} {path}"));
        let body = String::from_utf8(body).unwrap();
        let told = json!({"method": method, "path": path, "own": own, "body": body}).to_string();
        let length = told.len();
        let answer = match path.as_str() {
            "/chunks" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                for part in ["one;", "two;", "three"] {
                    stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes())?;
                }
                "0\r\n\r\n".to_owned()
            }
            "/away" => "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/metadata" => "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/held" => {
                may_go.lock().unwrap().recv().unwrap();
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{told}")
            }
            "/go" => {
                go.send(()).unwrap();
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{told}")
            }
            // A picture, as far as its first bytes go.
            "/cat" => "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nGIF89a..".to_owned(),
            "/huge" => {
                let body = " ".repeat((20 << 20) + 1);
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            }
            path if path.starts_with("/status/") => {
                let status = path.trim_start_matches("/status/");
                format!("HTTP/1.1 {status} Some\r\ncontent-length: {length}\r\n\r\n{told}")
            }
            _ => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{told}"),
        };
        stream.write_all(answer.as_bytes())?;
    }
}

/// What a tool's body gives, as `f(base)`; `base` is the address of a server.
fn run(echo: &Echo, code: &str, allow: bool) -> Answer {
    let host = format!("127.0.0.1:{}", echo.port);
    let private = ["--allow-private-host", &host];
    let more = if allow { &private[..] } else { &[] };
    run_at(&format!("http://{host}"), code, more)
}

fn run_at(base: &str, code: &str, more: &[&str]) -> Answer {
    let body: String = code.lines().map(|line| format!("    {line}\n")).collect();
    let code = format!("from promptflow.core import tool\n\n\n@tool\ndef f(base: str):\n{body}");
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  base:\n    type: string\noutputs:\n  out:\n    type: object\n    reference: ${f.output}\n\
             nodes:\n- name: f\n  type: python\n  source:\n    type: code\n    path: f.py\n  inputs:\n    base: ${inputs.base}\n",
        )
        .file("f.py", &code);
    let base = format!("base={base}");
    flow.test(&[&["--inputs", &base], more].concat())
}

#[track_caller]
fn gives(code: &str, expected: &Value) {
    let echo = Echo::start();
    let answer = run(&echo, code, true);
    assert_eq!(&answer.outputs()["out"], expected, "{answer:#?}");
}

fn told(method: &str, path: &str, own: &str, body: &str) -> Value {
    json!({"method": method, "path": path, "own": own, "body": body})
}

#[test]
fn the_standard_library_asks() {
    gives(
        "import json, urllib.request\n\
         request = urllib.request.Request(base + '/a?b=c', data=b'body', headers={'X-Own': '1'}, method='PUT')\n\
         with urllib.request.urlopen(request, timeout=30) as answer:\n    return json.load(answer)",
        &told("PUT", "/a?b=c", "1", "body"),
    );
    // Redirects are followed, answers of other statuses are errors.
    gives(
        "import json, urllib.request, urllib.error\n\
         away = json.load(urllib.request.urlopen(base + '/away'))['path']\n\
         try:\n    urllib.request.urlopen(base + '/status/404')\n\
         except urllib.error.HTTPError as error:\n    return [away, error.code, json.load(error)['path']]",
        &json!(["/", 404, "/status/404"]),
    );
    // A connection is used again; answers come in chunks, without a body, and by parts.
    gives(
        "import http.client\n\
         connection = http.client.HTTPConnection(base.removeprefix('http://'), timeout=30)\n\
         found = []\n\
         for method, path in [('GET', '/chunks'), ('HEAD', '/'), ('GET', '/status/204'), ('GET', '/chunks')]:\n    \
             connection.request(method, path)\n    \
             answer = connection.getresponse()\n    \
             found.append([answer.status, answer.read(5).decode(), answer.read().decode()])\n\
         connection.request('POST', '/', iter([b'a', b'bc']), encode_chunked=True, headers={'Transfer-Encoding': 'chunked'})\n\
         found.append(connection.getresponse().read().decode())\n\
         connection.close()\n\
         return found",
        &json!([
            [200, "one;t", "wo;three"],
            [200, "", ""],
            [204, "", ""],
            [200, "one;t", "wo;three"],
            told("POST", "/", "", "abc").to_string(),
        ]),
    );
}

#[test]
fn requests_asks() {
    gives(
        "import requests\n\
         with requests.Session() as session:\n    \
             session.headers['x-own'] = '2'\n    \
             found = [session.post(base + '/p', json={'a': [1]}, timeout=(5, 30)).json()]\n    \
             found.append(session.get(base + '/away').json()['path'])\n    \
             found.append(session.get(base + '/status/503').status_code)\n    \
             found.append(list(session.get(base + '/chunks', stream=True).iter_content(4)) == [b'one;', b'two;', b'thre', b'e'])\n    \
             found.append(requests.put(base, data=iter([b'x', b'y'])).json()['body'])\n\
         return found",
        &json!([
            told("POST", "/p", "2", "{\"a\": [1]}"),
            "/",
            503,
            true,
            "xy"
        ]),
    );
}

#[test]
fn asyncio_asks_several_at_once() {
    // The first is only answered after the second was asked.
    gives(
        "import asyncio\n\n\
         async def ask(path):\n    \
             reader, writer = await asyncio.open_connection(*base.removeprefix('http://').split(':'))\n    \
             writer.write(f'GET {path} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'.encode())\n    \
             await writer.drain()\n    \
             status = await reader.readline()\n    \
             while (await reader.readline()).strip():\n        pass\n    \
             writer.close()\n    \
             await writer.wait_closed()\n    \
             return [path, status.decode().strip()]\n\n\
         async def both():\n    \
             return await asyncio.gather(ask('/held'), ask('/go'), asyncio.sleep(0.001, 'slept'))\n\n\
         return asyncio.run(both())",
        &json!([
            ["/held", "HTTP/1.1 200 OK"],
            ["/go", "HTTP/1.1 200 OK"],
            "slept"
        ]),
    );
}

#[test]
fn a_timeout_ends_a_wait() {
    gives(
        "import requests, socket, urllib.request\n\
         found = []\n\
         try:\n    requests.get(base + '/held', timeout=0.05)\n\
         except requests.exceptions.ReadTimeout:\n    found.append('requests')\n\
         try:\n    urllib.request.urlopen(base + '/held', timeout=0.05)\n\
         except TimeoutError:\n    found.append('urllib')\n\
         return found",
        &json!(["requests", "urllib"]),
    );
}

#[test]
fn private_addresses_are_not_asked() {
    let echo = Echo::start();
    let code = "import urllib.request\n\
         try:\n    return urllib.request.urlopen(base).read().decode()\n\
         except OSError as error:\n    return [type(error).__name__, str(error)]";
    let answer = run(&echo, code, false);
    let refused = &answer.outputs()["out"];
    assert_eq!(refused[0], "PermissionError", "{answer:#?}");
    let log = answer.node("f")["logs"]["log"].as_str().unwrap();
    assert!(
        log.contains("127.0.0.1 has an address in a private network"),
        "{log}"
    );
    assert_eq!(echo.asked(), Vec::<String>::new());

    // Nor where an allowed host leads on to.
    let code = "import requests\n\
         try:\n    return requests.get(base + '/metadata', timeout=30).text\n\
         except requests.exceptions.ConnectionError as error:\n    return 'refused'";
    let answer = run(&echo, code, true);
    assert_eq!(answer.outputs()["out"], "refused", "{answer:#?}");
    assert_eq!(echo.asked(), ["GET /metadata"]);
}

#[test]
fn images_are_fetched_by_url() {
    let echo = Echo::start();
    let flow = FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs:\n  image:\n    type: image\noutputs:\n  out:\n    type: object\n    reference: ${f.output}\n\
             nodes:\n- name: f\n  type: python\n  source:\n    type: code\n    path: f.py\n  inputs:\n    image: ${inputs.image}\n",
        )
        .file(
            "f.py",
            "from promptflow.contracts.multimedia import Image\nfrom promptflow.core import tool\n\n\n@tool\n\
             def f(image: Image):\n    return [len(image), image._mime_type, image.source_url]\n",
        );
    let host = format!("127.0.0.1:{}", echo.port);
    let fetch = |path: &str, more: &[&str]| {
        let image = format!("image=http://{host}{path}");
        flow.test(&[&["--inputs", &image], more].concat())
    };
    let allowed = ["--allow-private-host", host.as_str()];
    let answer = fetch("/cat", &allowed);
    assert_eq!(
        answer.outputs()["out"],
        json!([8, "image/gif", format!("http://{host}/cat")]),
        "{answer:#?}"
    );
    let class = "LoadMultimediaDataError";
    let missing = fetch("/status/404", &allowed);
    missing.assert_failure(
        class,
        &["Failed to fetch image from URL", "Error code: 404"],
    );
    fetch("/huge", &allowed).assert_failure(class, &["more than 20971520 bytes"]);
    // What tools may not ask, their images may not come from.
    fetch("/cat", &[]).assert_failure(class, &["Failed to fetch image from URL"]);
    fetch("/metadata", &allowed).assert_failure(class, &["Failed to fetch image from URL"]);
}

#[test]
fn what_is_not_http_is_refused() {
    gives(
        "import socket\n\
         found = []\n\
         for what in (lambda: socket.socket().bind(('', 8000)), lambda: socket.socket(type=socket.SOCK_DGRAM).connect(('a', 1))):\n    \
             try:\n        what()\n    \
             except OSError as error:\n        found.append(str(error))\n\
         with socket.create_connection(base.removeprefix('http://').split(':'), timeout=5) as s:\n    \
             try:\n        s.sendall(b'EHLO there\\r\\n\\r\\n')\n    \
             except OSError as error:\n        found.append(str(error))\n\
         return [text.partition('] ')[2] for text in found]",
        &json!([
            "there are no servers here: a session's way out is HTTP",
            "only HTTP is spoken here",
            "only HTTP/1.1 is spoken here: not enough values to unpack (expected 3, got 2)",
        ]),
    );
}

/// A server that speaks TLS, answers each request with `ok`, and closes the connection. Its port, and its certificate (PEM).
fn encrypted() -> (u16, String) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            // Who does not trust it ends it here.
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                let _ = stream.write_all(answer.as_bytes());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    (port, own.cert.pem())
}

#[test]
fn https_is_spoken_by_the_host() {
    let (port, certificate) = encrypted();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let (base, host) = (
        format!("https://localhost:{port}"),
        format!("localhost:{port}"),
    );
    let allow = ["--allow-private-host", &host];
    let code = "import asyncio, requests, ssl, urllib.request\n\n\
         async def ask():\n    \
             port = int(base.rpartition(':')[2])\n    \
             reader, writer = await asyncio.open_connection('localhost', port, ssl=ssl.create_default_context())\n    \
             writer.write(b'GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n')\n    \
             await reader.readuntil(b'\\r\\n\\r\\n')\n    \
             return (await reader.readexactly(2)).decode()\n\n\
         return [urllib.request.urlopen(base).read().decode(), requests.get(base, timeout=60).text, asyncio.run(ask())]";
    let trusting = [&allow[..], &["--ca-file", file.to_str().unwrap()]].concat();
    let answer = run_at(&base, code, &trusting);
    assert_eq!(
        answer.outputs()["out"],
        json!(["ok", "ok", "ok"]),
        "{answer:#?}"
    );

    // A tool cannot have the host trust what it does not trust.
    let code = "import requests\n\
         try:\n    return requests.get(base, verify=False, timeout=60).text\n\
         except requests.exceptions.ConnectionError:\n    return 'refused'";
    let answer = run_at(&base, code, &allow);
    assert_eq!(answer.outputs()["out"], "refused", "{answer:#?}");
}

#[test]
fn a_run_asks_what_it_is_allowed() {
    const ASKS: &str = "import requests\n\
        found = []\n\
        for method in ['GET', 'POST']:\n    \
            try:\n        found.append(requests.request(method, base).status_code)\n    \
            except requests.ConnectionError as error:\n        found.append('refused')\n\
        return found";
    let echo = Echo::start();
    let host = format!("127.0.0.1:{}", echo.port);
    let base = format!("http://{host}");
    let private = ["--allow-private-host", host.as_str()];
    for (more, expected) in [
        (vec![], json!([200, 200])),
        (vec!["--allow-method", "GET"], json!([200, "refused"])),
        // What may be private may be asked.
        (vec!["--allow-host", "a.example"], json!([200, 200])),
        (
            vec!["--allow-host", "a.example", "--allow-method", "PUT"],
            json!(["refused", "refused"]),
        ),
    ] {
        let answer = run_at(&base, ASKS, &[&private[..], &more].concat());
        assert_eq!(answer.outputs()["out"], expected, "{more:?}");
    }
    assert_eq!(echo.asked().len(), 5);
    let elsewhere = run_at("https://b.example", ASKS, &["--allow-host", "a.example"]);
    assert_eq!(elsewhere.outputs()["out"], json!(["refused", "refused"]));
    let logs = elsewhere.node("f")["logs"].to_string();
    assert!(
        logs.contains("not among the hosts that this command allows"),
        "{logs}"
    );
    let wrong = run_at(&base, ASKS, &["--allow-method", "get"]);
    assert!(
        wrong.message().contains("'get' is no method"),
        "{}",
        wrong.message()
    );
}
