//! Connections that sign in with the session's identity: no key anywhere, and a token that guests never see.

use flowcell_tests::FlowFolder;
use flowcell_tests::authority::Authority;
use flowcell_tests::openai::Server as Models;
use flowcell_tests::server::{Client, Server, Session, Setup, workspace};
use serde_json::{Value, json};

const TOKEN: &str = "eyJ-hunter2-of-the-identity";
const CLIENT_SECRET: &str = "correct~horse-of-the-client";

/// Asks a model by a node, by promptflow's function and by the package `openai`, and tells what stands for the token.
fn flow() -> FlowFolder {
    FlowFolder::new()
        .file(
            "flow.dag.yaml",
            "inputs: {}\noutputs:\n  out: {type: object, reference: '${more.output}'}\nnodes:\n\
             - name: ask\n  type: llm\n  source: {type: code, path: ask.jinja2}\n  inputs: {deployment_name: d}\n  \
             connection: model\n  api: chat\n- name: more\n  type: python\n  source: {type: code, path: more.py}\n  \
             inputs: {text: '${ask.output}', model: model}\n",
        )
        .file("ask.jinja2", "# user:\nhello [[reply: yes]]\n")
        .file(
            "more.py",
            "import openai\nfrom promptflow.connections import AzureOpenAIConnection\nfrom promptflow.core import tool\n\
             from promptflow.tools.aoai import chat\n@tool\n\
             def more(text: str, model: AzureOpenAIConnection):\n    \
             again = chat(model, prompt='# user:\\n[[reply: again]]', deployment_name='d')\n    \
             client = openai.AzureOpenAI(azure_endpoint=model.api_base, api_version=model.api_version,\n        \
             azure_ad_token_provider=model.get_token)\n    \
             said = client.chat.completions.create(model='d', messages=[{'role': 'user', 'content': '[[reply: more]]'}])\n    \
             return [text, again, said.choices[0].message.content, model.get_token(), model.api_key]\n",
        )
}

struct World {
    models: Models,
    server: Server,
    admin: Client,
}

impl World {
    fn new() -> Self {
        let models = Models::start();
        let server = Server::with(Setup {
            environment: vec![(
                "RUST_LOG".to_owned(),
                "info,flowcell_session=trace,flowcell_worker=trace".to_owned(),
            )],
            ..Setup::config(
                "[network]\nprivate_hosts = [\"127.0.0.1:*\"]\nallowed_hosts = [\"*:*\"]\n",
            )
        });
        let admin = server.admin();
        let connection = json!({
            "type": "azure_open_ai", "api_base": models.url(), "auth_mode": "meid_token",
        });
        let made = admin.put(&workspace("/connections/model"), connection);
        assert_eq!(made.is(201).json["auth_mode"], "meid_token");
        admin.upload("signs", &flow()).expect(201);
        Self {
            models,
            server,
            admin,
        }
    }

    /// Where a credential for the models is.
    fn credential(&self, holder: &str) -> String {
        let host = self.models.url();
        let host = host.strip_prefix("http://").unwrap();
        workspace(&format!("/{holder}/credentials/connection/{host}"))
    }

    fn bearers(&self) -> Vec<String> {
        let requests = self.models.requests();
        assert!(requests.iter().all(|one| one.header("api-key").is_empty()));
        let each = requests.iter().map(|one| one.header("authorization"));
        each.map(ToOwned::to_owned).collect()
    }

    /// Nobody is told a secret.
    fn is_discreet(&self, session: &Session, secrets: &[&str]) {
        let mut told = vec![self.server.log()];
        for path in ["/requests", "/traces", "/history"] {
            let page = self.admin.get(&session.path(path)).is(200);
            told.push(String::from_utf8_lossy(&page.body).into_owned());
        }
        for secret in secrets {
            assert!(!told.iter().any(|text| text.contains(secret)), "{secret}");
        }
    }
}

#[test]
fn a_user_s_token_goes_to_its_endpoint() {
    let world = World::new();
    let own = world.credential("me");
    world.admin.put(&own, json!({ "token": TOKEN })).expect(200);
    let session = world.admin.session("signs");
    let out = session.out(json!({}));
    assert_eq!(
        (&out[0], &out[1], &out[2]),
        (&json!("yes"), &json!("again"), &json!("more"))
    );
    let stands = out[3].as_str().unwrap();
    assert!(stands.starts_with("flowcell-secret-"), "{out}");
    assert_eq!(out[4], Value::Null);
    assert_eq!(
        world.bearers(),
        [
            format!("Bearer {TOKEN}"),
            format!("Bearer {TOKEN}"),
            format!("Bearer {TOKEN}")
        ]
    );
    world.is_discreet(&session, &[TOKEN]);
    // Another one holds at once, behind the same placeholder.
    world
        .admin
        .put(&own, json!({ "token": "eyJ-another" }))
        .expect(200);
    assert_eq!(session.out(json!({}))[3], out[3]);
    assert_eq!(world.bearers()[3..], ["Bearer eyJ-another"; 3]);
    // Without one, whoever uses the connection is told what to do.
    world.admin.delete(&own).expect(204);
    let failed = session.call(json!({}));
    assert_eq!(failed["error"]["class"], "UserErrorException", "{failed:#}");
    let message = failed["error"]["message"].as_str().unwrap();
    for words in [
        "'model' signs in with the session's identity",
        "user admin",
        "credential set 127.0.0.1",
        "--kind connection",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(world.bearers().len(), 6);
}

#[test]
fn a_managed_identity_gets_its_tokens_from_an_authority() {
    let world = World::new();
    let authority = Authority::start();
    let made = world
        .admin
        .post(&workspace("/identities"), json!({ "name": "team" }));
    let client_id = made.is(201).text("client_id").to_owned();
    let held = world.credential("identities/team");
    let sign_in = |secret: &str| {
        json!({
            "tenant": "contoso.example", "client_id": "c-1", "client_secret": secret, "authority": authority.url(),
        })
    };
    let view = world.admin.put(&held, sign_in(CLIENT_SECRET)).is(200).json;
    assert_eq!(
        (&view["kind"], &view["value"]),
        (&json!("connection"), &json!("******"))
    );
    let identity = json!({ "type": "managed", "client_id": client_id });
    let session = world
        .admin
        .start(&json!({ "flow": "signs", "identity": identity }));
    authority.gives(TOKEN, 3600);
    for _ in 0..2 {
        assert_eq!(session.out(json!({}))[0], "yes");
    }
    assert_eq!(world.bearers(), vec![format!("Bearer {TOKEN}"); 6]);
    // It was asked once, for what the type of the connection needs.
    let asked = authority.asked();
    let [(path, form)] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert_eq!(path, "/contoso.example/oauth2/v2.0/token");
    for part in [
        "grant_type=client_credentials",
        "client_id=c-1",
        "client_secret=correct%7Ehorse-of-the-client",
        "scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default",
    ] {
        assert!(form.split('&').any(|one| one == part), "{part}: {form}");
    }
    world.is_discreet(&session, &[TOKEN, CLIENT_SECRET]);
    // Set anew, it asks anew. A token that is about to end is used once.
    world.admin.put(&held, sign_in("another")).expect(200);
    authority.gives("eyJ-short", 0);
    authority.gives("eyJ-long", 3600);
    for _ in 0..3 {
        session.out(json!({}));
    }
    let bearers = world.bearers();
    assert_eq!(bearers[6..9], ["Bearer eyJ-short"; 3]);
    assert_eq!(bearers[9..], ["Bearer eyJ-long"; 6]);
    assert_eq!(authority.asked().len(), 3);
    // What the authority says of a refusal is told; answers that are no token are none.
    for (secret, answer, words) in [
        (
            "wrong",
            None,
            "invalid_client AADSTS7000215: the secret is wrong.",
        ),
        (
            "nonsense",
            Some((200, "{}".to_owned())),
            "its answer is no token",
        ),
        (
            "spaces",
            Some((
                200,
                "{\"token_type\": \"Bearer\", \"access_token\": \"a b\"}".to_owned(),
            )),
            "its answer is no token",
        ),
        (
            "long",
            Some((200, " ".repeat(100_000))),
            "more than 65536 bytes",
        ),
        (
            "broken",
            Some((500, "<html>".to_owned())),
            "its answer is no token",
        ),
    ] {
        world.admin.put(&held, sign_in(secret)).expect(200);
        if let Some((status, body)) = answer {
            authority.answers(status, &body);
        }
        let failed = session.call(json!({}));
        let message = failed["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("127.0.0.1 gives no token") && message.contains(words),
            "{secret}: {message}"
        );
        assert!(!message.contains("Trace ID"), "{message}");
        // It is not asked again at once.
        let before = authority.asked().len();
        session.call(json!({}));
        assert_eq!(authority.asked().len(), before, "{secret}");
    }
    assert_eq!(world.bearers().len(), 15);
}

#[test]
fn what_gets_no_token_is_refused() {
    let world = World::new();
    let own = world.credential("me");
    let sign_in = |more: Value| {
        let mut body = json!({ "tenant": "t", "client_id": "c", "client_secret": CLIENT_SECRET });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    for (body, word) in [
        (
            json!({ "username": "u", "password": CLIENT_SECRET }),
            "tenant, client_id and client_secret",
        ),
        (
            json!({ "tenant": "t", "client_secret": CLIENT_SECRET }),
            "tenant, client_id and client_secret",
        ),
        (
            sign_in(json!({ "token": "t" })),
            "tenant, client_id and client_secret",
        ),
        (
            sign_in(json!({ "authority": "ftp://a.example" })),
            "authority",
        ),
        (
            sign_in(json!({ "authority": "https://user@a.example" })),
            "authority",
        ),
        (
            sign_in(json!({ "authority": "https://a.example?x" })),
            "authority",
        ),
        (sign_in(json!({ "tenant": "" })), "tenant"),
        (sign_in(json!({ "client_id": "a\nb" })), "client_id"),
        (sign_in(json!({ "scope": "s".repeat(20_000) })), "scope"),
    ] {
        let refused = world.admin.put(&own, body);
        refused.is_problem(422, "invalid", &[word]);
        assert!(!refused.detail().contains(CLIENT_SECRET));
    }
    // It is nothing for an index.
    let index = workspace("/me/credentials/index/packages.example");
    world.admin.put(&index, sign_in(json!({}))).expect(422);
    // An authority within the network is not asked, unless the operator allows it.
    let closed = Server::start();
    let admin = closed.admin();
    let connection = json!({
        "type": "azure_open_ai", "api_base": "https://models.example", "auth_mode": "identity",
    });
    admin
        .put(&workspace("/connections/model"), connection)
        .expect(201);
    admin.upload("signs", &flow()).expect(201);
    let own = workspace("/me/credentials/connection/models.example");
    let metadata = sign_in(json!({ "authority": "https://169.254.169.254" }));
    admin.put(&own, metadata).expect(200);
    let session = admin.session("signs");
    let why = || {
        let failed = session.call(json!({}));
        failed["error"]["message"].as_str().unwrap().to_owned()
    };
    let message = why();
    assert!(message.contains("private network"), "{message}");
    // Nothing secret is sent unencrypted: neither the client's secret nor a token.
    let plain = sign_in(json!({ "authority": "http://login.example" }));
    admin.put(&own, plain).expect(200);
    let message = why();
    assert!(
        message.contains("login.example is to be asked by https"),
        "{message}"
    );
    admin.put(&own, json!({ "token": TOKEN })).expect(200);
    let moved = json!({ "api_base": "http://models.example:443" });
    let connection = workspace("/connections/model");
    admin.patch(&connection, moved).expect(200);
    let message = why();
    assert!(message.contains("by https only"), "{message}");
}

#[test]
fn a_token_whose_authority_does_not_say_is_kept_for_a_while() {
    let world = World::new();
    let authority = Authority::start();
    let sign_in = json!({
        "tenant": "t", "client_id": "c", "client_secret": CLIENT_SECRET, "authority": authority.url(),
    });
    world
        .admin
        .put(&world.credential("me"), sign_in)
        .expect(200);
    let session = world.admin.session("signs");
    let body = format!("{{\"token_type\": \"Bearer\", \"access_token\": \"{TOKEN}\"}}");
    authority.answers(200, &body);
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let session = session.clone();
            std::thread::spawn(move || session.out(json!({})))
        })
        .collect();
    for call in calls {
        assert_eq!(call.join().unwrap()[0], "yes");
    }
    assert_eq!(authority.asked().len(), 1);
}
